"""What every data format promises, on data in its layout that its own test file makes.

`tests/data/test_<format>.py` has `made(root)`, which writes a small data set in the format's layout, deterministic, and
returns the options of `data` and the tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from segweave.data import FORMATS
from segweave.data.dataset import Dataset
from segweave.errors import ConfigError, DataError
from segweave.tasks.task import Task


def made(name: str, root: Path) -> tuple[dict[str, Any], Sequence[Task]]:
    return import_module(f"test_{name}").made(root)


def split(name: str, which: str, options: dict[str, Any], tasks: Sequence[Task]) -> Dataset:
    return FORMATS.load(name)(which, tasks, **options)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_keeps_its_promises(name: str, tmp_path: Path) -> None:
    options, tasks = made(name, tmp_path)
    splits = split(name, "train", options, tasks).splits
    assert {"train", "val"} <= set(splits)
    seen: dict[str, int] = dict.fromkeys((task.name for task in tasks), 0)
    for which in splits:
        dataset, again = (split(name, which, options, tasks) for _ in range(2))
        assert len(dataset) == len(dataset.ids) == len(set(dataset.ids)) > 0
        assert list(dataset.ids) == sorted(dataset.ids) == list(again.ids)
        assert dataset.fingerprint() == again.fingerprint()
        assert which in dataset.splits
        counts = dict.fromkeys(seen, 0)
        for index, id in enumerate(dataset.ids):
            sample, twin = dataset[index], again[index]
            assert sample.id == id
            assert torch.equal(sample.image, twin.image)
            assert torch.equal(sample.image, dataset.image(index))
            for task in tasks:
                alone = dataset.annotation(index, task.name)
                assert dataset.has_label(index, task.name) == (alone is not None) == (task.name in sample.annotations)
                if alone is None:
                    continue
                counts[task.name] += 1
                assert torch.equal(alone, sample.annotations[task.name])
                assert torch.equal(alone, twin.annotations[task.name])
                if task.dense:
                    assert alone.shape[-2:] == sample.image.shape[-2:]
                task.encode(alone)
        assert counts == {task.name: dataset.labelled(task.name) for task in tasks}
        seen = {task: seen[task] + counts[task] for task in seen}
    assert all(seen.values()), seen


@pytest.mark.parametrize("name", FORMATS)
def test_a_split_that_there_is_not_is_named(name: str, tmp_path: Path) -> None:
    options, tasks = made(name, tmp_path)
    with pytest.raises(ConfigError, match="holdout"):
        split(name, "holdout", options, tasks)


@pytest.mark.parametrize("name", FORMATS)
def test_the_layers_and_their_classes_are_told(name: str, tmp_path: Path) -> None:
    """A task without a source finds its layer, and the class names of the format fit it."""
    options, tasks = made(name, tmp_path)
    kind = FORMATS.load(name)
    layers, classes = kind.layers(options), kind.default_classes(options)
    for task in tasks:
        layer = task.source or task.name
        assert layers is None or layers[layer] in (task.reads, layer)
        if layer in classes:
            assert list(classes[layer]) == list(getattr(task, "classes", []))


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("folder", "synthetic")])
def test_a_layer_of_another_kind_and_a_folder_of_another_layout_are_refused(name: str, tmp_path: Path) -> None:
    options, tasks = made(name, tmp_path / "good")
    kind = FORMATS.load(name)
    with pytest.raises(ConfigError, match="no such folder"):
        kind("train", tasks, **options | {"root": str(tmp_path / "nowhere")})
    (tmp_path / "other" / "stuff").mkdir(parents=True)
    with pytest.raises((ConfigError, DataError)) as caught:
        kind("train", tasks, **options | {"root": str(tmp_path / "other")})
    assert str(tmp_path / "other") in str(caught.value)
