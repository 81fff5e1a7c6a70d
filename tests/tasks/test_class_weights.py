"""Class weights: every definition against numpy in its own words, scikit-learn, and what training makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from segweave import build, checkpoint
from segweave.errors import ConfigError
from segweave.model import MultiTaskModel
from segweave.tasks import Classification, Depth, Semantic
from segweave.tasks.class_weights import WEIGHTINGS, class_weights, occurrence
from tiny import tiny

CLASSES = 5


def masks(seed: int = 0, images: int = 12) -> list[np.ndarray]:
    """Images of several sizes; class 4 is nowhere, class 3 in two images, and a tenth of the pixels not labelled."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(images):
        shares = [0.6, 0.25, 0.05, 0.001 if index in (2, 7) else 0.0]
        size = (int(rng.integers(20, 40)), int(rng.integers(20, 40)))
        mask = rng.choice([0, 1, 2, 3, 255], size, p=[*shares, 1 - sum(shares)]).astype(np.uint8)
        if index in (2, 7):
            mask[0, 0] = 3
        made.append(mask)
    return made


def by(weighting: Any, given_masks: list[np.ndarray], classes: int = CLASSES) -> np.ndarray:
    return np.array(class_weights(occurrence(map(torch.from_numpy, given_masks), classes), weighting))


def pixels_of(given_masks: list[np.ndarray]) -> np.ndarray:
    return np.array([sum((mask == label).sum() for mask in given_masks) for label in range(CLASSES)], float)


def test_balanced_is_that_of_scikit_learn() -> None:
    flat = np.concatenate([mask[mask != 255] for mask in masks()])
    present = np.unique(flat)
    expected = np.zeros(CLASSES)
    expected[present] = compute_class_weight("balanced", classes=present, y=flat)
    np.testing.assert_allclose(by("balanced", masks()), expected, rtol=1e-12)
    # 1 on average over the pixels
    assert by("balanced", masks())[flat].mean() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("power", [1.0, 0.5, 0.1])
def test_inverse_frequency(power: float) -> None:
    pixels = pixels_of(masks())
    frequencies = pixels[:4] / pixels.sum()
    raw = np.array([1 / frequency**power for frequency in frequencies])
    found = by({"name": "inverse", "power": power}, masks())
    np.testing.assert_allclose(found, [*(raw / (raw.sum() / 4)), 0], rtol=1e-12)
    if power == 1:
        np.testing.assert_array_equal(found, by("inverse", masks()))
        balanced = by("balanced", masks())
        np.testing.assert_allclose(found[:4] / found[0], balanced[:4] / balanced[0], rtol=1e-12)


def test_median_frequency_counts_the_pixels_of_the_images_that_show_a_class() -> None:
    frequencies = []
    for label in range(4):
        showing = [mask for mask in masks() if (mask == label).any()]
        assert len(showing) == (2 if label == 3 else 12)
        frequencies.append(sum((m == label).sum() for m in showing) / sum((m != 255).sum() for m in showing))
    expected = [np.median(frequencies) / frequency for frequency in frequencies]
    np.testing.assert_allclose(by("median_frequency", masks()), [*expected, 0], rtol=1e-12)


def test_a_class_of_the_median_frequency_weighs_one() -> None:
    mask = np.array([[0, 0, 0, 0, 1, 1, 2]], np.uint8)
    np.testing.assert_allclose(by("median_frequency", [mask], 3), [0.5, 1, 2], rtol=1e-12)


@pytest.mark.parametrize("of", ["images", "places"])
@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.999999])
def test_effective_number(beta: float, of: str) -> None:
    if of == "images":
        samples = [sum(bool((mask == label).any()) for mask in masks()) for label in range(4)]
    else:
        samples = pixels_of(masks())[:4].astype(int).tolist()
    # the sum of the series that the closed form stands for: 1 + beta + ... + beta^(n - 1)
    effective = np.array([np.power(beta, np.arange(n)).sum() for n in samples])
    expected = 1 / effective
    found = by({"name": "effective_number", "beta": beta, "of": of}, masks())
    # 1 - beta^n loses up to six digits to beta near 1
    np.testing.assert_allclose(found, [*(expected / expected.mean()), 0], rtol=1e-9)


def test_effective_number_of_pixels_is_blind_where_beta_is_far_from_one() -> None:
    many = [np.repeat(np.arange(3, dtype=np.uint8), [200_000, 20_000, 20_000])]
    np.testing.assert_allclose(by({"name": "effective_number", "beta": 0.999, "of": "places"}, many, 3), 1, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.lists(st.sampled_from([0, 1, 2, 3, 255]), min_size=1, max_size=30), min_size=1, max_size=6),
    weighting=st.sampled_from(sorted(WEIGHTINGS)),
)
def test_what_holds_of_any_labels(rows: list[list[int]], weighting: str) -> None:
    given_masks = [np.array(row, np.uint8) for row in rows]
    found = by(weighting, given_masks)
    pixels = pixels_of(given_masks)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found > 0, pixels > 0)
    np.testing.assert_allclose(found, by(weighting, given_masks[::-1]), rtol=1e-12)
    if weighting in ("inverse", "effective_number") and pixels.any():
        assert found[pixels > 0].mean() == pytest.approx(1, rel=1e-12)
    if weighting in ("balanced", "inverse"):
        order = np.argsort(pixels[pixels > 0])
        assert (np.diff(found[pixels > 0][order]) <= 1e-12).all()


def test_a_class_that_is_nowhere_changes_no_other() -> None:
    for weighting in WEIGHTINGS:
        np.testing.assert_array_equal(by(weighting, masks())[:4], by(weighting, masks(), 4))


@pytest.mark.parametrize("weighting", [*WEIGHTINGS, {"name": "effective_number", "beta": 0.9, "of": "places"}])
def test_semantic_prepares_what_its_losses_then_weigh_by(weighting: Any) -> None:
    task = Semantic("semantic", classes=CLASSES, class_weights=weighting, loss={"cross_entropy": 1.0, "focal": 1.0})
    assert task.spec()["class_weights"] == weighting
    (told,) = task.prepare(lambda: map(torch.from_numpy, masks()))
    weights = task.spec()["class_weights"]
    np.testing.assert_allclose(weights, by(weighting, masks()), rtol=1e-12)
    assert told == f"class weights {', '.join(f'class {i} {weight:.3g}' for i, weight in enumerate(weights))}"
    output = torch.randn(1, CLASSES, 20, 20, generator=torch.Generator().manual_seed(0))
    target = torch.from_numpy(masks()[2][:20, :20]).long()[None]
    expected = torch.nn.functional.cross_entropy(
        output, target, torch.tensor(weights), ignore_index=255, reduction="sum"
    )
    torch.testing.assert_close(task.loss(output, target)["cross_entropy"].sum[0], expected, rtol=1e-5, atol=0)


def test_a_binary_task_weighs_its_background_too() -> None:
    task = Semantic("road", classes=["road"], class_weights="inverse")
    task.prepare(lambda: [torch.tensor([[0, 0, 0, 1, 255]], dtype=torch.uint8)])
    assert task.spec()["class_weights"] == pytest.approx([0.5, 1.5])


def test_classification_counts_images() -> None:
    labels = [torch.tensor(label) for label in (0, 0, 0, 0, 0, 0, 1, 1, 1, 2, -1)]
    task = Classification("scene", classes=3, class_weights="balanced")
    task.prepare(lambda: labels)
    known = np.array([int(label) for label in labels if label >= 0])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=known)
    assert task.spec()["class_weights"] == pytest.approx(expected.tolist())
    output = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([2, 0, 1, -1])
    terms = task.loss(output, target)["cross_entropy"]
    whole = torch.nn.functional.cross_entropy(output, target, torch.tensor(expected).float(), ignore_index=-1)
    torch.testing.assert_close(terms.sum.sum() / terms.count.sum(), whole)


@pytest.mark.parametrize(
    ("weighting", "message"),
    [
        ({"name": "median"}, r"tasks\.t\.class_weights: found 'median'; expected balanced, inverse, "),
        ({"beta": 0.9}, r"tasks\.t\.class_weights: found 'None'"),
        ({"name": "inverse", "beta": 0.9}, r"tasks\.t\.class_weights\.beta: unknown key; did you mean 'power'"),
        ({"name": "inverse", "power": 0}, r"tasks\.t\.class_weights\.power: found 0"),
        ({"name": "inverse", "power": 1.5}, r"tasks\.t\.class_weights\.power: found 1\.5"),
        ({"name": "effective_number", "beta": 1.0}, r"tasks\.t\.class_weights\.beta: found 1\.0"),
        ({"name": "effective_number", "beta": -0.1}, r"tasks\.t\.class_weights\.beta: found -0\.1"),
        ({"name": "effective_number", "of": "pixels"}, r"tasks\.t\.class_weights\.of: found 'pixels'"),
        ([1.0, 2.0], r"tasks\.t\.class_weights: found \[1\.0, 2\.0\]; expected 5 numbers"),
        ([1.0, 2.0, 0.0, 1.0, -1.0], r"tasks\.t\.class_weights: .* finite and none negative"),
        ([1.0, 2.0, 0.0, 1.0, float("nan")], r"tasks\.t\.class_weights: .* finite and none negative"),
        ([1.0, 2.0, 0.0, 1.0, float("inf")], r"tasks\.t\.class_weights: .* finite and none negative"),
    ],
)
@pytest.mark.parametrize("kind", [Semantic, Classification])
def test_wrong_weights_are_refused_before_any_label_is_read(kind: Any, weighting: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind("t", classes=CLASSES, class_weights=weighting)


def test_classification_refuses_what_means_nothing_there() -> None:
    with pytest.raises(ConfigError, match=r"class_weights: found 'median_frequency'"):
        Classification("t", classes=3, class_weights={"name": "median_frequency"})
    with pytest.raises(ConfigError, match=r"class_weights: found 'balanced'; expected none where"):
        Classification("t", classes=3, class_weights="balanced", multi_label=True)


@pytest.mark.parametrize("weights", ["balanced", [1.0, 2.0, 3.0]])
@pytest.mark.parametrize("loss", ["dice", "iou", "tversky", "lovasz", "boundary", "bce"])
def test_weights_that_no_loss_takes_are_refused(loss: str, weights: Any) -> None:
    with pytest.raises(
        ConfigError, match=rf"tasks\.t\.class_weights: .* no loss of {loss} takes them; expected .*focal"
    ):
        Semantic("t", classes=3, class_weights=weights, loss={loss: 1.0})
    # beside one that takes them they are that one's
    task = Semantic("t", classes=3, class_weights=[1.0, 2.0, 3.0], loss={loss: 1.0, "cross_entropy": 1.0})
    plain = Semantic("t", classes=3, loss={loss: 1.0, "cross_entropy": 1.0})
    output = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 3, (1, 6, 6), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    one, two = task.loss(output, target), plain.loss(output, target)
    assert torch.equal(one[loss].sum, two[loss].sum)
    assert not torch.equal(one["cross_entropy"].sum, two["cross_entropy"].sum)


def test_the_run_holds_the_weights_and_says_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weighting = {"name": "effective_number", "beta": 0.9}
    config = tiny(tasks={"semantic": {"kind": "semantic", "class_weights": weighting}}, train={"steps": 1})
    folder, _ = build.train(config, "run", tmp_path)
    task = MultiTaskModel.from_pretrained(folder).tasks["semantic"]
    weights = task.spec()["class_weights"]
    data = build.build_dataset(config, "train", build.build_tasks(config))
    found = (data.annotation(index, "semantic") for index in range(len(data)))
    labels = [label.as_subclass(Tensor) for label in found if label is not None]
    assert weights == pytest.approx(class_weights(occurrence(labels, len(weights)), weighting))
    assert f"semantic: class weights {task.locates[0]} {weights[0]:.3g}, " in capsys.readouterr().out


def test_a_run_that_goes_on_has_its_weights_and_counts_no_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where labels have changed, which would otherwise give the second half of a run another loss."""
    options = {"kind": "semantic", "class_weights": "balanced", "weight": {"labels": -1}}
    tasks = {"semantic": options, "depth": {"kind": "depth"}}
    folder, _ = build.train(tiny(tasks=tasks, train={"steps": 1}), "run", tmp_path, quiet=True)
    before = MultiTaskModel.from_pretrained(folder).tasks["semantic"].spec()

    def count(*_: Any) -> Any:
        raise AssertionError("the labels are counted again")

    monkeypatch.setattr(Semantic, "prepare", count)
    monkeypatch.setattr(Semantic, "weigh", count)
    build.train(tiny(tasks=tasks, train={"steps": 2}), "run", tmp_path, resume=True, quiet=True)
    network, recipe = checkpoint.load(folder / "weights" / "last.safetensors")
    assert network
    assert recipe["tasks"][0] == before
    assert len(before["class_weights"]) == 8
    assert before["weight"] == 1.0


def test_what_is_recalled_is_what_was_prepared() -> None:
    made = {"class_weights": "inverse", "weight": {"labels": -1}}
    tasks = (Semantic("t", classes=CLASSES, **made), Classification("t", classes=CLASSES, **made))
    labels = (masks(), [np.array(label) for label in (0, 0, 1, 2, 3)])
    for task, targets in zip(tasks, labels, strict=True):
        task.prepare(lambda targets=targets: map(torch.from_numpy, targets))
        task.weigh(1, 4)
        fresh = type(task)("t", classes=CLASSES, **made)
        fresh.recall(task.spec())
        assert fresh.spec() == task.spec()
        assert fresh.weight == 4
        assert torch.equal(fresh.criteria["cross_entropy"].weight, task.criteria["cross_entropy"].weight)  # pyright: ignore
        # what a config states as numbers is the config's
        stated = type(task)("t", classes=CLASSES, class_weights=[1.0] * CLASSES, weight=3.0)
        stated.recall(task.spec())
        assert stated.spec()["class_weights"] == [1.0] * CLASSES
        assert stated.weight == 3.0


@pytest.mark.parametrize("power", [-1.0, -0.5, 0.0, 1.0])
def test_a_weight_from_the_number_of_labels(power: float) -> None:
    task = Depth("depth", weight={"labels": power})
    assert task.spec()["weight"] == {"labels": power}
    (told,) = task.weigh(3, 48)
    assert task.weight == task.spec()["weight"] == pytest.approx((3 / 48) ** power)
    assert told == f"weight {task.weight:.4g}, from labels on 3 of 48 training images"
    again = Depth("depth", weight=task.spec()["weight"])
    assert again.weigh(1, 2) == ()
    assert again.weight == task.weight


def test_a_task_that_every_image_is_labelled_for_keeps_its_weight() -> None:
    task = Depth("depth", weight={"labels": -1})
    task.weigh(48, 48)
    assert task.weight == 1


@pytest.mark.parametrize("weight", [{"labels": 1.5}, {"labels": -2}, {"images": 1}, {}, {"labels": 1, "scale": 2}])
def test_a_weight_that_is_neither_a_number_nor_a_power_is_refused(weight: Any) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.depth\.weight: found \{.*expected a number, or \{labels: P\}"):
        Depth("depth", weight=weight)
