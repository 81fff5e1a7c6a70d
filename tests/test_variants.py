"""Other ways to train what a config describes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segweave import build
from segweave.config import Config, from_values
from segweave.errors import ConfigError
from segweave.plan import Plan
from segweave.schema import check_config
from segweave.sources import build_dataset, build_tasks, training_images
from segweave.variants import alone, shares_written, variants, with_fewer_labels, written

TASKS = {
    "semantic": {"kind": "semantic"},
    "depth": {"kind": "depth", "max_depth": 80.0},
    "normals": {
        "kind": "normals",
        "source": "depth",
        "derive": {"normals": {"intrinsics": [60, 60, 24, 16], "step": 0.02}},
    },
}


def config_of(tasks: dict[str, Any] | None = None, **data: Any) -> Config:
    values = {
        "data": {"format": "synthetic", "size": [32, 48], "count": 12, **data},
        "tasks": TASKS if tasks is None else tasks,
        "balancing": {"method": "upgrad"},
        "train": {"steps": 4, "batch_size": 4, "best": "depth/abs_rel"},
    }
    return check_config(from_values(values))


def test_a_variant_is_a_name_and_changes() -> None:
    assert written("up balancing.method=upgrad 'data.size=[64, 96]'") == (
        "up",
        ["balancing.method=upgrad", "data.size=[64, 96]"],
    )
    for text in ("", "up", "balancing.method=upgrad", "up 'balancing"):
        with pytest.raises(ConfigError, match="--variant"):
            written(text)


def test_shares_are_numbers() -> None:
    assert shares_written("0.1, 0.25,1") == [0.1, 0.25, 1]
    assert shares_written("") == []
    with pytest.raises(ConfigError, match="--data-fractions half"):
        shares_written("half")


def test_the_config_then_its_variants_then_one_network_per_task() -> None:
    found = variants(config_of(), {"mgda": ["balancing.method=mgda"], "pair": ["tasks=semantic, depth"]})
    assert [way.name for way in found] == [
        "multi-task",
        "mgda",
        "pair",
        "separate semantic",
        "separate depth",
        "separate normals",
    ]
    assert [way.tasks for way in found[2:4]] == [["semantic", "depth"], ["semantic"]]
    assert found[1].config.balancing["method"] == "mgda"
    assert found[2].config.balancing["method"] == "upgrad"
    assert found[3].config.balancing == {"method": "equal"}
    assert [way.name for way in variants(config_of(), {}, separate=False)] == ["multi-task"]
    assert [way.name for way in variants(alone(config_of(), ["depth"]), {})] == ["multi-task"]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("separate", ["train.lr=1"], "neither"),
        ("../up", ["train.lr=1"], "expected letters"),
        ("separate depth", ["train.lr=1"], "neither"),
        ("long", ["train.lr=1", "train.steps=99"], "--variant long: found train.steps=99; expected no other budget"),
        ("lucky", ["train.seed=7"], "found train.seed=7"),
        ("up", ["tasks=semantic,dept"], "found 'dept'; expected some of semantic, depth, normals"),
        ("up", ["balancing.method=upgrat"], "--variant up: .*upgrad"),
        ("up", ["train.lr"], "--variant up: override"),
    ],
)
def test_what_is_no_variant(name: str, changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        variants(config_of(), {name: changes})


def test_what_names_a_task_that_is_gone_is_left_out() -> None:
    rare = {"task": "semantic", "chance": 0.5}
    config = config_of(augment={"rare": rare}, sampling={"name": "tasks", "minimum": {"semantic": 2, "depth": 1}})
    depth, semantic = (alone(config, [task]) for task in ("depth", "semantic"))
    assert depth.data["augment"]["rare"] is None
    assert depth.data["sampling"] == {"name": "tasks", "minimum": {"depth": 1}}
    assert depth.train["best"] == "depth/abs_rel"
    assert semantic.data["augment"]["rare"] == rare
    assert "best" not in semantic.train
    repeated = config_of(sampling={"name": "repeat_factor", "task": "semantic", "threshold": 0.1})
    assert alone(repeated, ["depth"]).data["sampling"] is None
    for made in (depth, semantic, alone(repeated, ["depth"])):
        tasks = build_tasks(made)
        build.build_sampling(made, build_dataset(made, "train", tasks), tasks, Plan(**made.train))


def test_a_derived_task_alone_is_made_of_the_same_labels() -> None:
    config = config_of()
    whole, single = (build_dataset(c, "val", build_tasks(c)) for c in (config, alone(config, ["normals"])))
    assert [task.name for task in build_tasks(alone(config, ["normals"]))] == ["normals"]
    assert single[1].annotations.keys() == {"normals"}
    assert torch.equal(
        torch.as_tensor(single[1].annotations["normals"]), torch.as_tensor(whole[1].annotations["normals"])
    )


def test_a_config_predicts_something() -> None:
    with pytest.raises(ConfigError, match="predict: false in all"):
        build_tasks(config_of({"depth": {"kind": "depth", "max_depth": 80.0, "predict": False}}))


def test_what_is_derived_is_as_scarce_as_its_labels() -> None:
    half = next(share for share in with_fewer_labels(config_of(), [0.5], "depth") if share.scarce)
    (way,) = half.ways
    tasks = build_tasks(way.config)
    images = training_images(way.config, tasks, seed=3)
    labels = {task.name: {i for i in range(12) if images.has_label(i, task.name)} for task in tasks}
    assert {name: len(places) for name, places in labels.items()} == {"semantic": 12, "depth": 6, "normals": 6}
    assert labels["normals"] == labels["depth"]
    half = next(share for share in with_fewer_labels(config_of(), [0.5], "normals") if share.scarce)
    assert half.ways[0].config.data["fraction"] == {"normals": 0.5}
