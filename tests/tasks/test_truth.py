"""A target drawn as a prediction, and where a prediction is wrong: pixel by pixel, for the kinds that have pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segweave.tasks import TASKS

IMAGE = torch.full((3, 12, 16), 100, dtype=torch.uint8)


def is_grey(drawn: Tensor) -> Tensor:
    """[H, W]: where red, green and blue are the same."""
    return (drawn == drawn[:1]).all(0)


def semantic() -> tuple[Tensor, Tensor]:
    """A target with unlabelled rows, and a prediction that is wrong in one labelled and one unlabelled pixel."""
    target = torch.zeros(12, 16, dtype=torch.uint8)
    target[:, 8:] = 1
    target[:3] = 255
    labels = target.long().clamp(max=1)
    labels[5, 4] = 1
    labels[0, 0] = 1
    return target, labels


def test_unlabelled_pixels_are_drawn_as_no_class() -> None:
    task = TASKS.load("semantic")("s", classes=["a", "b"], colours={"a": [255, 0, 0], "b": [0, 0, 255]})
    target, _ = semantic()
    drawn = task.draw(IMAGE, task.truth(target))
    assert is_grey(drawn).nonzero()[:, 0].unique().tolist() == [0, 1, 2]
    assert drawn[:, 5, 0].tolist() == [193, 40, 40]  # 0.4 * 100 + 0.6 * 255
    assert drawn[:, 5, 15].tolist() == [40, 40, 193]
    names = [name for name, _ in task.legend(task.truth(target)).entries]
    assert names == ["a", "b", "not labelled (striped)"]


def test_wrong_pixels_are_red_and_unlabelled_ones_never() -> None:
    task = TASKS.load("semantic")("s", classes=["a", "b"])
    target, labels = semantic()
    drawn = task.draw_error(IMAGE, {"labels": labels}, target)
    assert (~is_grey(drawn)).nonzero().tolist() == [[5, 4]]
    assert drawn[0, 5, 4] > 150 > drawn[1, 5, 4]
    names = [name for name, _ in task.error_legend({"labels": labels}, target).entries]
    assert names == ["wrong", "not labelled (striped)"]
    labelled = target.clamp(max=1)
    assert is_grey(task.draw_error(IMAGE, {"labels": labelled.long()}, labelled)).all()
    assert not task.error_legend({"labels": labelled.long()}, labelled).entries


def depth() -> Tensor:
    """Metres 2 on the left, 8 in the middle, and nothing measured on the right."""
    target = torch.full((12, 16), 2.0)
    target[:, 8:12] = 8.0
    target[:, 12:] = 0.0
    return target


def test_what_was_not_measured_is_grey_and_widens_no_range() -> None:
    task = TASKS.load("depth")("d")
    drawn = task.draw(IMAGE, task.truth(depth()))
    assert (drawn[:, :, 12:] == 128).all()
    assert is_grey(drawn)[0].tolist() == [False] * 8 + [False] * 4 + [True] * 4
    legend = task.legend(task.truth(depth()))
    assert legend.bar == (2.0, 8.0, "m")
    assert [name for name, _ in legend.entries] == ["not measured"]
    nothing = task.truth(torch.zeros(12, 16))
    assert (task.draw(IMAGE, nothing) == 128).all()
    assert task.legend(nothing).bar == (task.min_depth, task.max_depth, "m")


def test_the_same_depth_has_the_same_colour_in_truth_and_prediction() -> None:
    task = TASKS.load("depth")("d")
    truth, prediction = task.truth(depth()), {"depth": torch.full((12, 16), 8.0)}
    prediction["depth"][:2] = 40.0
    side = task.beside(prediction, truth)
    assert task.legend(side).bar == (2.0, 8.0, "m")
    assert torch.equal(task.draw(IMAGE, side)[:, 5, 0], task.draw(IMAGE, truth)[:, 5, 9])
    # beyond the range is the colour of its end
    assert torch.equal(task.draw(IMAGE, side)[:, 0, 0], task.draw(IMAGE, side)[:, 5, 0])
    assert task.legend(prediction).bar == (8.0, 40.0, "m")


def test_depth_errors_are_relative_with_fixed_colours() -> None:
    task = TASKS.load("depth")("d")
    target = depth()
    prediction = {"depth": target.clamp(min=1) * 1.25}
    prediction["depth"][6:] = target[6:] * 1.5
    prediction["depth"][9:] = float("nan")
    drawn = task.draw_error(IMAGE, prediction, target)
    legend = task.error_legend(prediction, target)
    assert legend.bar == (0.0, 50.0, "% or more")
    # a quarter too much is the middle colour, near as far; half of it and no number at all are the last
    assert tuple(drawn[:, 0, 0].tolist()) == legend.ramp[len(legend.ramp) // 2]
    assert torch.equal(drawn[:, 0, 0], drawn[:, 0, 9])
    assert tuple(drawn[:, 7, 0].tolist()) == tuple(drawn[:, 10, 0].tolist()) == legend.ramp[-1]
    assert (drawn[:, :, 12:] == 128).all()
    assert tuple(task.draw_error(IMAGE, {"depth": target}, target)[:, 0, 0].tolist()) == legend.ramp[0]


@pytest.mark.parametrize(
    ("target", "scores", "truth", "verdict"),
    [(1, [0.2, 0.8], "road", "right"), (0, [0.2, 0.8], "city", "wrong"), (-1, [0.2, 0.8], "none", "not known")],
)
def test_a_single_class_in_words(target: int, scores: list[float], truth: str, verdict: str) -> None:
    task = TASKS.load("classification")("k", classes=["city", "road"])
    label, prediction = torch.tensor(target), {"scores": torch.tensor(scores)}
    assert task.legend(task.truth(label)).text == truth
    assert task.legend(prediction).text == "road 0.80"
    assert task.error_legend(prediction, label).text == verdict
    assert torch.equal(task.draw_error(IMAGE, prediction, label), IMAGE)


def test_several_classes_in_words() -> None:
    task = TASKS.load("classification")("k", classes=["car", "dog", "sky", "sea"], multi_label=True)
    label = torch.tensor([1.0, 0.0, 1.0, -1.0])
    assert task.legend(task.truth(label)).text == "car, sky"
    assert task.error_legend({"scores": torch.tensor([0.4, 0.9, 0.8, 0.9])}, label).text == "missed: car; invented: dog"
    assert task.error_legend({"scores": torch.tensor([0.6, 0.1, 0.8, 0.9])}, label).text == "right"
