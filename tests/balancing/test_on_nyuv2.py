"""Every method trains semantic and depth on real rooms, by config, and moves every parameter of both tasks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segweave import build, fit, read_config
from segweave.balancing import METHODS
from segweave.balancing.balancer import Balancer
from segweave.batch import Batch, Labelled
from segweave.config import Config
from segweave.data.augment import Augment
from segweave.data.loader import Loader
from segweave.model import MultiTaskModel
from segweave.optimizers import build_optimizer, parameter_groups
from segweave.plan import Plan
from segweave.train import Step

EXAMPLE = Path(__file__).parents[2] / "examples" / "nyuv2.yaml"
TASKS = {"semantic", "depth"}
EVERY = pytest.mark.parametrize("name", METHODS)


def config_of(name: str, real_data: Path) -> Config:
    """The example with a small network; without weight decay, which would move parameters that no task trains."""
    changes = [
        f"data.root={real_data / 'nyuv2' / 'data'}",
        "data.size=[48, 64]",
        "model={backbone: test_resnet, decoder: {name: fpn, width: 16}}",
        "train={steps: 2, batch_size: 4, weight_decay: 0}",
    ]
    return read_config(EXAMPLE, [*changes, f"balancing.method={name}"])


@pytest.fixture(scope="module")
def batches(real_data: Path) -> list[Batch]:
    """Two batches of four images with both labels, read once for all methods."""
    config = config_of("equal", real_data)
    tasks = build.build_tasks(config)
    dataset = build.build_dataset(config, "train", tasks)
    loader = Loader(dataset, {task.name: task for task in tasks}, Augment(config.data["size"]), batch_size=4)
    return [effective.micro[0] for effective in islice(loader, 2)]


def labelled(batch: Batch, task: str, images: int) -> Batch:
    """The batch with the task's label on its first images only."""
    kept = Labelled(batch.targets[task].rows[:images], batch.targets[task].value[:images])
    others = {name: target for name, target in batch.targets.items() if name != task}
    return Batch(batch.ids, batch.images, others | ({task: kept} if images else {}))


def training(config: Config, batches: list[Batch]) -> tuple[MultiTaskModel, Balancer, Iterator[Step]]:
    plan = Plan(**config.train)
    torch.manual_seed(plan.seed)
    model = build.create_model(build.build_tasks(config), **config.model)
    balancer = METHODS.load(config.balancing["method"])(list(model.tasks), plan.seed)
    optimizer = build_optimizer(plan.optimizer, parameter_groups(model, balancer, plan.lr, plan.weight_decay))
    return model, balancer, fit(model, batches, optimizer=optimizer, balancer=balancer, seed=plan.seed)


def parameters(model: MultiTaskModel, balancer: Balancer) -> dict[str, Tensor]:
    named = {**dict(model.named_parameters()), **{f"balancer.{n}": p for n, p in balancer.named_parameters()}}
    assert {"encoder", "interaction", "heads"} <= {key.partition(".")[0] for key in named}
    return {key: value.detach().clone() for key, value in named.items()}


def unchanged(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    return {key for key, value in before.items() if torch.equal(value, after[key])}


def check(step: Step, tasks: set[str]) -> None:
    assert not step.not_finite
    numbers: dict[str, Any] = {**step.losses, "total": step.total, "norm": step.grad_norm}
    assert all(math.isfinite(value) for value in numbers.values())
    assert all(value > 0 for value in step.losses.values())
    assert set(step.losses) == set(step.weights) == tasks


@EVERY
def test_every_parameter_is_trained(name: str, real_data: Path, batches: list[Batch]) -> None:
    model, balancer, steps = training(config_of(name, real_data), batches)
    before = parameters(model, balancer)
    for step in steps:
        check(step, TASKS)
    assert unchanged(before, parameters(model, balancer)) == set()


@EVERY
def test_every_parameter_is_trained_where_half_the_images_lack_depth(
    name: str, real_data: Path, batches: list[Batch]
) -> None:
    """Two batches with depth on half of their images, then one without depth, which trains all but the depth head.

    One such batch would not do: the encoder's blocks end in norms with weight 0, which let no gradient through.
    """
    partly = [labelled(batch, "depth", 2) for batch in batches]
    model, balancer, steps = training(config_of(name, real_data), [*partly, labelled(batches[0], "depth", 0)])
    states = [parameters(model, balancer)]
    for step, tasks in zip(steps, (TASKS, TASKS, {"semantic"}), strict=True):
        check(step, tasks)
        states.append(parameters(model, balancer))
    assert unchanged(states[0], states[2]) == set()
    still = {key for key in unchanged(states[2], states[3]) if not key.startswith("balancer.")}
    assert still == {key for key in states[2] if key.startswith("heads.depth.")}
