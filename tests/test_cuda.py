"""Training and evaluation on a GPU: the numbers of the CPU, and how often a step waits. Skipped without one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from segweave import build
from segweave.balancing import METHODS
from segweave.batch import Sample
from segweave.config import Config
from segweave.data.augment import Augment
from segweave.data.loader import Loader, collate_windows
from segweave.model import create_model
from segweave.train import fit
from tiny import TINY, steps, tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

OBJECTS = TINY["tasks"] | {"objects": {"kind": "detection", "loss": {"focal": 1, "giou": 1}, "width": 16}}
WAITS_TWICE = {"cagrad", "upgrad", "nash_mtl"}
"""Methods that solve for their weights on the host; the others wait for what is logged alone."""


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def trained(folder: Path, config: Config, device: str, **options: Any) -> list[dict[str, Any]]:
    run, _ = build.train(config, device, folder, device=device, quiet=True, **options)
    return steps(run)


@pytest.mark.parametrize(
    "balancing",
    [
        {"method": "uncertainty"},
        {"method": "famo"},
        {"method": "upgrad", "space": "features"},
        {"method": "cagrad", "space": "parameters"},
        {"method": "moco"},
    ],
    ids=lambda balancing: "-".join(balancing.values()),
)
def test_a_gpu_trains_as_a_cpu_does(tmp_path: Path, balancing: dict[str, Any]) -> None:
    # every head has to read the same features for the one; dropout draws other numbers on a GPU
    at_features = {"scene": {"kind": "classification", "at": "decoder"}}
    tasks = at_features if balancing.get("space") == "features" else OBJECTS
    model = {"decoder": {"name": "fpn", "width": 16, "dropout": 0.0}}
    config = tiny(tasks=tasks, model=model, balancing=balancing, train={"steps": 5, "lr": 1e-4})
    cpu, gpu = (trained(tmp_path, config, device) for device in ("cpu", "cuda"))
    assert len(cpu) == len(gpu) == 5
    for one, other in zip(cpu, gpu, strict=True):
        losses = [key for key in one if key.startswith(("loss/", "weight/"))]
        assert len(losses) >= 8
        for key in losses:
            assert other[key] == pytest.approx(one[key], rel=5e-3, abs=1e-4), key


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("method", ["equal", "upgrad", "graddrop"])
def test_half_precision_trains(tmp_path: Path, precision: str, method: str) -> None:
    config = tiny(balancing={"method": method}, train={"steps": 8, "precision": precision, "clip": 1.0})
    found = trained(tmp_path, config, "cuda")
    last = [value for key, value in found[-1].items() if key.startswith("loss/")]
    assert last
    assert all(map(math.isfinite, last))
    assert sum(bool(step.get("skipped")) for step in found) < 8


def test_a_resumed_run_goes_on_with_the_same_losses(tmp_path: Path) -> None:
    whole = tiny(train={"steps": 6, "precision": "fp16"}, balancing={"method": "upgrad"})
    through = trained(tmp_path / "whole", whole, "cuda")
    trained(tmp_path / "parts", tiny(train={"steps": 3, "precision": "fp16"}, balancing={"method": "upgrad"}), "cuda")
    resumed = trained(tmp_path / "parts", whole, "cuda", resume=True)
    for one, other in zip(through, resumed, strict=True):
        for key in one:
            if key.startswith("loss/"):
                assert other[key] == pytest.approx(one[key], rel=1e-2, abs=1e-3), key


def test_metrics_are_those_of_the_cpu(tmp_path: Path) -> None:
    run, _ = build.train(tiny(tasks=OBJECTS), "run", tmp_path, device="cuda", quiet=True)
    cpu, gpu = (build.evaluate_run(run, device=device) for device in ("cpu", "cuda"))
    for task, metrics in cpu.items():
        for key, value in metrics.items():
            if isinstance(value, float):
                assert gpu[task][key] == pytest.approx(value, abs=2e-3, nan_ok=True), (task, key)


@pytest.mark.parametrize("method", ["equal", "famo", "graddrop", *sorted(WAITS_TWICE)])
def test_a_step_of_fit_waits_once_for_the_log_and_once_for_weights_solved_on_the_host(method: str) -> None:
    config = tiny(train={"batch_size": 4})
    tasks = build.build_tasks(config)
    dataset = build.build_dataset(config, "train", tasks)
    model = create_model(tasks, **config.model).cuda()
    balancer = METHODS.load(method)([task.name for task in tasks]).cuda()
    optimizer = torch.optim.AdamW([*model.parameters(), *balancer.parameters()], 1e-4)
    batches = Loader(dataset, model.tasks, Augment([48, 80]), batch_size=4)
    made = fit(model, batches, optimizer=optimizer, balancer=balancer)
    assert len(list(islice(made, 2))) == 2
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        next(made)
        torch.cuda.synchronize()
    copies = [event.name for event in found.events() if "DtoH" in event.name]
    assert len(copies) == (2 if method in WAITS_TWICE else 1), copies


@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16, torch.float32])
def test_images_made_on_a_gpu_are_those_of_the_cpu_and_nothing_is_read_back(kind: torch.dtype) -> None:
    values = torch.rand(3, 300, 400, generator=torch.Generator().manual_seed(0))
    image = values if kind == torch.float32 else (values * torch.iinfo(kind).max).to(torch.int32).to(kind)
    augment = Augment(None, crop=[200, 240])
    cut = [augment.cut(Sample(str(k), image, {}), {}, torch.Generator().manual_seed(k)) for k in range(6)]
    pending = collate_windows(cut, {}).pin_memory()
    pending.made("cuda")
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        made = pending.made("cuda")
        torch.cuda.synchronize()
    assert not [event.name for event in found.events() if "DtoH" in event.name]
    expected = torch.stack(
        [augment(Sample("", image, {}), {}, torch.Generator().manual_seed(k)).image for k in range(6)]
    )
    # places of 400 columns in float32 are sure to 400 x 2^-24 of a pixel, and neighbouring pixels of noise differ by 1
    torch.testing.assert_close(made.images.cpu(), expected, rtol=0, atol=5e-5)
