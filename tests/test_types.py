"""The types that everything agrees on: their fields, what they refuse, and that importing the package is cheap."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from typing import Any

import jaxtyping
import pytest
import torch
from torch import nn

import segweave as sw
from segweave.balancing import METHODS
from segweave.balancing.balancer import (
    Balance,
    Balancer,
    GramianBalancer,
    JacobianBalancer,
    LossBalancer,
    Objective,
)
from segweave.batch import Batch, Labelled, Sample, Terms
from segweave.data import FORMATS
from segweave.decoders import DECODERS
from segweave.interactions import INTERACTIONS
from segweave.interactions.interaction import Features, Interaction
from segweave.losses import LOSSES
from segweave.regularizers import REGULARIZERS
from segweave.tasks import TASKS
from segweave.tasks.task import Task

IMAGE = torch.zeros(3, 4, 5, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("kind", "fields", "frozen"),
    [
        (Sample, ["id", "image", "annotations"], True),
        (Labelled, ["rows", "value"], True),
        (Batch, ["ids", "images", "targets"], True),
        (Terms, ["sum", "count"], True),
        (Features, ["per_task", "common", "auxiliary"], False),
        (
            Objective,
            [
                *("tasks", "losses", "regulariser", "common", "shared", "private", "scale", "reduce", "last"),
                *("between", "rows", "closing", "whole", "epoch", "each"),
            ],
            False,
        ),
        (Balance, ["weights", "gramian", "overlap", "space"], True),
    ],
)
def test_fields(kind: type, fields: list[str], frozen: bool) -> None:
    assert [field.name for field in dataclasses.fields(kind)] == fields
    assert kind.__dataclass_params__.frozen is frozen  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "methods"),
    [
        (
            Task,
            [
                *("read", "write", "encode", "head", "decode", "metric", "draw", "wrap", "predictions", "legend"),
                *("truth", "draw_error", "error_legend"),
            ],
        ),
        (Balancer, ["differentiate"]),
        (LossBalancer, ["combine"]),
        (GramianBalancer, ["weigh"]),
        (JacobianBalancer, ["aggregate"]),
        (Interaction, ["forward", "private"]),
    ],
)
def test_what_a_kind_must_define(kind: type, methods: list[str]) -> None:
    assert kind.__abstractmethods__ == set(methods)  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="abstract"):
        kind("name")


@pytest.mark.parametrize(
    ("make", "good"),
    [
        (lambda image: Sample("a", image, {}), [IMAGE, IMAGE.float(), torch.zeros(7, 2, 2, dtype=torch.uint16)]),
        (lambda rows: Labelled(rows, torch.zeros(2)), [torch.tensor([0, 3])]),
        (lambda images: Batch(["a"], images, {}), [torch.zeros(1, 3, 4, 4)]),
        (lambda sums: Terms(sums, torch.ones(2)), [torch.zeros(2)]),
    ],
)
def test_shapes_and_types_are_checked(make: Any, good: list[torch.Tensor]) -> None:
    for value in good:
        make(value)
    for bad in (torch.zeros(2, 3, 4, 4, 4), torch.zeros((), dtype=torch.bool), "text"):
        with pytest.raises(jaxtyping.TypeCheckError):
            make(bad)


def test_labelled_needs_a_value_for_every_row() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        Labelled(torch.tensor([0, 1, 2]), torch.zeros(2, 4, 4))


def test_moving_a_batch_keeps_what_it_holds() -> None:
    batch = Batch(["a", "b"], torch.rand(2, 3, 4, 4), {"x": Labelled(torch.tensor([1]), torch.ones(1, 4, 4))})
    moved = batch.to("cpu")
    assert len(moved) == 2
    assert torch.equal(moved.images, batch.images)
    assert torch.equal(moved.targets["x"].value, batch.targets["x"].value)
    assert batch.to("meta").targets["x"].rows.device.type == "meta"


def test_terms_per_image_weigh_every_labelled_image_the_same() -> None:
    terms = Terms(torch.tensor([6.0, 0.0, 1.0]), torch.tensor([3.0, 0.0, 4.0])).per_image()
    assert terms.sum.tolist() == [2.0, 0.0, 0.25]
    assert terms.count.tolist() == [1.0, 0.0, 1.0]


TABLES = {
    "tasks": (TASKS, Task),
    "balancing": (METHODS, Balancer),
    "interactions": (INTERACTIONS, Interaction),
    "losses": (LOSSES, nn.Module),
    "regularizers": (REGULARIZERS, nn.Module),
    "decoders": (DECODERS, nn.Module),
    "formats": (FORMATS, object),
}


@pytest.mark.parametrize("table", TABLES)
def test_every_name_in_a_table_is_a_class_in_the_file_of_that_name(table: str) -> None:
    catalogue, base = TABLES[table]
    assert len(catalogue) > 0
    for name, class_name in catalogue.items():
        loaded = catalogue.load(name)
        assert loaded.__module__ == f"{catalogue.package}.{name}"
        assert loaded.__name__ == class_name
        assert issubclass(loaded, base)
        assert loaded.__doc__
        keyword_only = [p for p in inspect.signature(loaded).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert {p.name for p in keyword_only} <= set(catalogue.options(name))


def test_what_the_package_offers() -> None:
    for name in sw.__all__:
        assert getattr(sw, name) is not None
    assert sw.tasks.Semantic("semantic", classes=11).kind == "semantic"
    assert sw.tasks.Depth("depth", max_depth=80.0).max_depth == 80
    assert isinstance(sw.balancing.Equal(), Balancer)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sw.nonsense


@pytest.mark.parametrize("statement", ["import segweave", "import segweave.cli", "import segweave.schema"])
def test_importing_does_not_import_torch(statement: str) -> None:
    heavy = ("torch", "torchvision", "timm", "numpy", "matplotlib")
    code = f"{statement}; import sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
