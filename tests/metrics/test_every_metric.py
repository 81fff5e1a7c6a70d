"""What every metric promises: any split and order, directions of its keys, nothing kept of the caller's."""

from __future__ import annotations

import importlib
import inspect
import itertools
import math
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import segweave.metrics
from segweave.metrics.classification import ClassificationMetric
from segweave.metrics.depth import DepthMetric
from segweave.metrics.detection import DetectionMetric
from segweave.metrics.edges import EdgeMetric
from segweave.metrics.metric import Metric
from segweave.metrics.normals import NormalsMetric
from segweave.metrics.segmentation import SegmentationMetric

Unpack = Callable[[Tensor], Mapping[str, Tensor]]
Case = tuple[Callable[[], Metric], Unpack, Tensor, Tensor, Tensor]


def under(key: str) -> Unpack:
    return lambda values: {key: values}


def boxes(values: Tensor) -> Mapping[str, Tensor]:
    """x1 y1 x2 y2, score and label in one tensor."""
    return {"boxes": values[..., :4], "scores": values[..., 4], "labels": values[..., 5].long()}


def cases() -> dict[str, Case]:
    """Constructor, how a tensor becomes a prediction, a perfect one, a bad one and the target of six images."""
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (6, 4, 5))
    mask = labels.where(torch.rand(labels.shape) < 0.8, 255)
    metres = torch.rand(6, 4, 5, dtype=torch.float64) * 9 + 1
    faces = torch.nn.functional.normalize(torch.randn(6, 3, 4, 5, dtype=torch.float64), dim=1)
    lines = torch.zeros(6, 9, 12)
    lines[:, 2, 1:9] = lines[:, 5:8, 10] = 1
    classes = torch.tensor([0, 1, 2, -1, 1, 0])
    one_hot = torch.nn.functional.one_hot(classes.clamp(min=0), 3).double()
    several = torch.tensor([[0, 1, 1], [1, 0, -1], [1, 1, 0], [0, 0, 1], [-1, 1, 1], [0, 1, 0]], dtype=torch.float64)
    nan = torch.where(torch.arange(6)[:, None] == 1, math.nan, 0.0)
    # a small, a medium and a large box in each image
    found = torch.tensor([[4.0, 4, 20, 24], [30, 2, 90, 70], [5, 5, 200, 180]], dtype=torch.float64)
    found = torch.cat([found, torch.ones(3, 1), torch.tensor([[0.0], [1], [0]])], 1).double().repeat(6, 1, 1)
    found[..., 4] = torch.rand(6, 3)  # no two alike: what comes first among equals is the order of the images
    true = torch.cat([found[..., :4], found[..., 5:], torch.zeros(6, 3, 1)], 2)
    true = torch.cat([true, (found[..., 2:4] - found[..., :2]).prod(-1, keepdim=True)], 2)
    off = found + torch.tensor([8.0, 40, 8, 40, 0, 0]) * (torch.rand(6, 1, 1) < 0.7)
    return {
        "segmentation": (
            lambda: SegmentationMetric(list("abc"), 255),
            under("labels"),
            labels,
            torch.where(labels == 0, 255, (labels + 1) % 3),
            mask,
        ),
        "depth": (
            DepthMetric,
            under("depth"),
            metres,
            torch.where(torch.rand(metres.shape) < 0.2, math.nan, metres * (2 + torch.rand(metres.shape))),
            metres.where(torch.rand(metres.shape) < 0.8, 0),
        ),
        "normals": (
            NormalsMetric,
            under("normals"),
            faces,
            torch.where(torch.rand(6, 1, 4, 5) < 0.2, math.nan, -faces + 0.1 * torch.randn(faces.shape)),
            faces.where(torch.rand(6, 1, 4, 5) < 0.8, 0),
        ),
        "edges": (
            lambda: EdgeMetric(255, nms=False),
            under("edges"),
            lines,
            torch.rand(lines.shape) * torch.where(lines > 0, 0.5, 0.8),
            lines.long().where((lines > 0) | (torch.rand(lines.shape) < 0.8), 255),
        ),
        "classification": (
            lambda: ClassificationMetric(list("abc")),
            under("scores"),
            one_hot,
            one_hot.roll(1, 1) + nan,
            classes,
        ),
        "detection": (lambda: DetectionMetric(["car", "sign"]), boxes, found, off, true),
        "multi-label": (
            lambda: ClassificationMetric(list("abc"), multi_label=True),
            under("scores"),
            several.clamp(min=0),
            1 - several.clamp(min=0) + nan,
            several,
        ),
    }


EVERY = pytest.mark.parametrize("name", list(cases()))


def test_no_metric_escapes() -> None:
    found = set()
    for module in pkgutil.iter_modules(segweave.metrics.__path__):
        for _, kind in inspect.getmembers(importlib.import_module(f"segweave.metrics.{module.name}"), inspect.isclass):
            if issubclass(kind, Metric) and not inspect.isabstract(kind):
                found.add(kind)
    assert {type(make()) for make, *_ in cases().values()} == found


@EVERY
def test_keys_say_what_is_computed_and_which_way_is_better(name: str) -> None:
    make, unpack, perfect, bad, target = cases()[name]
    good, poor = make(), make()
    good.update(unpack(perfect), target)
    poor.update(unpack(bad), target)
    best, worst = good.compute(), poor.compute()
    assert set(best) == set(worst) == set(good.keys) == set(make().compute())
    assert all(isinstance(value, float) for value in best.values())
    assert good.headline in good.keys
    assert good.higher_is_better is good.keys[good.headline]
    for value, higher in good.keys.items():
        assert (best[value] > worst[value]) is higher, value
        assert (best[value] < worst[value]) is not higher, value


@EVERY
def test_nothing_seen_is_nan(name: str) -> None:
    make, unpack, _, bad, target = cases()[name]
    metric = make()
    metric.update(unpack(bad), target)
    metric.reset()
    for empty in (make(), metric):
        empty.update(unpack(bad[:0]), target[:0])
        assert all(math.isnan(value) for value in empty.compute().values())
        empty.details()


def parts(name: str, cuts: list[int]) -> list[Metric]:
    make, unpack, perfect, bad, target = cases()[name]
    mixed = torch.where((torch.arange(6) % 2 == 0).reshape(-1, *[1] * (bad.ndim - 1)), perfect, bad)
    metrics = []
    for start, stop in itertools.pairwise([0, *cuts, 6]):
        metrics.append(make())
        metrics[-1].update(unpack(mixed[start:stop]), target[start:stop])
    return metrics


def same(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            same(found[key], value)
    elif isinstance(expected, float):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    else:
        assert found == expected


@EVERY
@pytest.mark.parametrize("cuts", [[1], [3, 3], [1, 4]])
def test_any_split_and_any_order_of_merging(name: str, cuts: list[int]) -> None:
    (whole,) = parts(name, [])
    for order in itertools.permutations(range(len(cuts) + 1)):
        metrics = parts(name, cuts)
        first, *rest = (metrics[i] for i in order)
        for other in rest:
            before = other.compute()
            first.merge(other)
            same(other.compute(), before)
        same(first.compute(), whole.compute())
        same(first.details(), whole.details())


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_nothing_of_the_callers(name: str, dtype: torch.dtype) -> None:
    make, unpack, _, prediction, target = cases()[name]
    metric = make()
    prediction = prediction.to(dtype) if prediction.is_floating_point() else prediction
    target = target.to(dtype) if target.is_floating_point() else target
    metric.update(unpack(prediction), target)
    before = metric.compute()
    prediction.zero_()
    target.zero_()
    same(metric.compute(), before)


class Elsewhere(Tensor):
    """A target on another device: it has a shape, can be moved, and nothing else."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        with torch._C.DisableTorchFunctionSubclass():
            if func in (Tensor.to, Tensor.cpu):
                assert func is Tensor.cpu or args[1] == torch.device("cpu")
                return args[0].as_subclass(Tensor)
            if func in (Tensor.detach, Tensor.shape.__get__):
                return func(*args, **(kwargs or {}))
        raise RuntimeError("expected all tensors to be on the same device")


@EVERY
def test_target_is_moved_to_the_device_of_the_prediction(name: str) -> None:
    make, unpack, _, prediction, target = cases()[name]
    metric, expected = make(), make()
    metric.update(unpack(prediction), target.clone().as_subclass(Elsewhere))
    expected.update(unpack(prediction), target)
    same(metric.compute(), expected.compute())


@EVERY
def test_under_inference_mode(name: str) -> None:
    make, unpack, _, prediction, target = cases()[name]
    metric, expected = make(), make()
    with torch.inference_mode():
        metric.update(unpack(prediction.clone()), target.clone())
    metric.update(unpack(prediction), target)
    for _ in range(2):
        expected.update(unpack(prediction), target)
    same(metric.compute(), expected.compute())
