"""Parameter groups, schedules and the choice of an optimizer."""

from __future__ import annotations

import math

import pytest
import torch

from segweave.balancing import Uncertainty
from segweave.errors import ConfigError
from segweave.model import MultiTaskModel, create_model
from segweave.optimizers import Schedule, build_optimizer, parameter_groups
from segweave.tasks import Semantic


def network() -> MultiTaskModel:
    return create_model([Semantic("semantic", classes=3)], backbone="test_resnet", decoder={"name": "fpn", "width": 8})


def test_groups_hold_every_parameter_once_with_its_rate_and_decay() -> None:
    model, balancer = network(), Uncertainty(["semantic"])
    groups = parameter_groups(model, balancer, lr=0.1, weight_decay=0.05, backbone_lr_scale=0.25)
    held = [p for group in groups for p in group["params"]]
    assert len({id(p) for p in held}) == len(held)
    assert {id(p) for p in held} == {id(p) for p in [*model.parameters(), *balancer.parameters()]}
    encoder = {id(p) for p in model.encoder.parameters()}
    own = {id(p) for p in balancer.parameters()}
    for group in groups:
        for p in group["params"]:
            assert group["lr"] == (0.025 if id(p) in encoder else 0.1)
            decayed = p.ndim >= 2 and id(p) not in own
            assert group["weight_decay"] == (0.05 if decayed else 0.0)


def test_norms_and_biases_are_not_decayed() -> None:
    model = network()
    groups = parameter_groups(model, None, 0.1, 0.05)
    names = {id(p): name for name, p in model.named_parameters()}
    free = {names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert {names[id(p)] for m in norms for p in m.parameters()} <= free
    assert {name for name in names.values() if name.endswith("bias")} <= free


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0]),
        ("poly", [1.0, 0.5**0.9, 0.0]),
        ("cosine", [1.0, (1 + math.cos(math.pi / 2)) / 2, 0.0]),
    ],
)
def test_schedules_and_their_warm_up(kind: str, expected: list[float]) -> None:
    optimizer = build_optimizer(
        "sgd", [{"params": [torch.zeros(1)], "lr": 4.0}, {"params": [torch.ones(1)], "lr": 1.0}]
    )
    schedule = Schedule(optimizer, kind)
    for progress, factor in zip((0.0, 0.5, 1.0), expected, strict=True):
        assert schedule.set(100, progress) == pytest.approx(factor, abs=1e-12)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(4 * factor, abs=1e-12)
    warming = Schedule(build_optimizer("adamw", [{"params": [torch.zeros(1)], "lr": 1.0}]), "constant", warmup=4)
    assert [warming.set(step, 0.0) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match=r"train\.optimizer: found 'adam'; expected adamw or sgd"):
        build_optimizer("adam", [])
    with pytest.raises(ConfigError, match=r"train\.schedule"):
        Schedule(build_optimizer("sgd", [{"params": [torch.zeros(1)], "lr": 1.0}]), "step")
