"""Shares of the training images, and of the labels of a task."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from segweave import build
from segweave.config import from_values
from segweave.data.dataset import Dataset
from segweave.data.fraction import Fraction
from segweave.data.synthetic import Synthetic
from segweave.errors import CheckpointError, ConfigError
from segweave.schema import check_config
from segweave.sources import build_tasks, training_images
from segweave.tasks import Classification, Depth
from tiny import steps, tiny, values

TASKS = ("depth", "scene")


@pytest.fixture(scope="module")
def whole() -> Dataset:
    tasks = [Depth("depth"), Classification("scene", classes=Synthetic.default_classes()["scene"])]
    return Synthetic("train", tasks, size=[16, 24], count=40)


class Sparse(Fraction):
    """Every fourth image has a depth map."""

    def has_label(self, index: int, task: str) -> bool:
        return super().has_label(index, task) and (task != "depth" or index % 4 == 0)


@pytest.mark.parametrize(("share", "count"), [(0.1, 4), (0.25, 10), (0.51, 20), (1.0, 40), (0.001, 1)])
def test_as_many_images_as_the_share_says_with_all_their_labels(whole: Dataset, share: float, count: int) -> None:
    some = Fraction(whole, share, TASKS, seed=3)
    assert len(some) == len(some.ids) == count
    for index, id in enumerate(some.ids):
        place = list(whole.ids).index(id)
        sample, expected = some[index], whole[place]
        assert sample.id == id
        assert torch.equal(sample.image, expected.image)
        assert torch.equal(some.image(index), expected.image)
        assert sample.annotations.keys() == expected.annotations.keys()
        for task in TASKS:
            label = some.annotation(index, task)
            assert label is not None
            assert torch.equal(label, expected.annotations[task])
    assert some.labelled("depth") == count


def test_smaller_shares_are_part_of_larger_ones_and_seeds_draw_others(whole: Dataset) -> None:
    drawn = [set(Fraction(whole, share, TASKS, seed=0).ids) for share in (0.1, 0.3, 0.5, 0.9)]
    assert drawn == sorted(drawn, key=len)
    assert all(small < large for small, large in pairwise(drawn))
    assert set(Fraction(whole, 0.5, TASKS, seed=1).ids) != drawn[2]
    assert set(Fraction(whole, 0.5, TASKS, seed=0).ids) == drawn[2]


def test_a_share_of_the_labels_of_one_task(whole: Dataset) -> None:
    base = Sparse(whole, 1.0, TASKS, seed=0)
    some = Fraction(base, {"depth": 0.3, "normals": 0.5}, TASKS, seed=0)
    assert list(some.ids) == list(whole.ids)
    assert some.labelled("scene") == 40
    assert some.labelled("depth") == 3  # of 10
    for index in range(40):
        labelled = some.has_label(index, "depth")
        assert not labelled or index % 4 == 0
        assert ("depth" in some[index].annotations) == labelled
        assert (some.annotation(index, "depth") is not None) == labelled
        assert some.annotation(index, "scene") is not None
    fewer = Fraction(base, {"depth": 0.1}, TASKS, seed=0)
    small, large = ({i for i in range(40) if made.has_label(i, "depth")} for made in (fewer, some))
    assert small < large


def test_the_fingerprint_tells_what_is_left(whole: Dataset) -> None:
    made = [
        Fraction(whole, share, TASKS, seed)
        for share, seed in ((0.5, 0), (0.5, 1), (0.4, 0), ({"depth": 0.5}, 0), ({"scene": 0.5}, 0))
    ]
    assert len({some.fingerprint() for some in [*made, whole]}) == 6
    assert Fraction(whole, 0.5, TASKS, 0).fingerprint() == made[0].fingerprint()


def test_the_sets_of_a_mixture_keep_their_places() -> None:
    made = values(data={"fraction": 0.5})
    data = {key: made["data"].pop(key) for key in ("format", "count")}
    made["data"]["sets"] = {"one": data, "two": {**data, "count": 6}}
    config = check_config(from_values(made))
    some = training_images(config, build_tasks(config), seed=0)
    assert len(some) == 9
    places = [index for name, where in some.sets.items() for index in where]
    assert places == list(range(9))
    for name, where in some.sets.items():
        assert all(some.ids[index].startswith(f"{name}/") for index in where)


def test_a_run_on_a_fraction(tmp_path: Path) -> None:
    config = tiny(data={"fraction": 0.5}, train={"epochs": 2, "batch_size": 2})
    folder, _ = build.train(config, "half", tmp_path, device="cpu", quiet=True)
    assert len(steps(folder)) == 6  # 2 epochs of 6 images by 2
    other = dataclasses.replace(config, data={**config.data, "fraction": 0.25})
    with pytest.raises(CheckpointError, match=r"data\.fraction was 0\.5 and is 0\.25"):
        build.train(other, "half", tmp_path, resume=True, device="cpu", quiet=True)


@pytest.mark.parametrize(
    ("fraction", "message"),
    [
        (0, r"data\.fraction: found 0"),
        (1.5, r"data\.fraction: found 1\.5; expected a share above 0 and at most 1"),
        ({"depth": 0}, r"data\.fraction\.depth: found 0"),
        ({"dept": 0.5}, r"data\.fraction\.dept: no such task; did you mean 'depth'"),
        ("half", r"data\.fraction"),
    ],
)
def test_what_is_no_fraction(fraction: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(data={"fraction": fraction})
