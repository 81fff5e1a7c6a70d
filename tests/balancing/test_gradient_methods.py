"""What every balancing method by gradient does, whatever its formula, on losses with given gradients."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from segweave.balancing import METHODS
from segweave.balancing.balancer import Balancer, LossBalancer, Objective
from segweave.errors import ConfigError

TASKS = ("semantic", "depth", "edges", "normals")
NAMES = [name for name in METHODS if not issubclass(METHODS.load(name), LossBalancer)]
every = pytest.mark.parametrize("name", NAMES)


def make(name: str, tasks: Sequence[str] = TASKS, **options: object) -> Balancer:
    return METHODS.load(name)(tasks, 5, space="parameters", **options)


def jacobian(seed: int, n: int = len(TASKS)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 12, generator=generator) * torch.tensor([3.0, 0.2, 1.0, 0.7])[:n, None]


def step(
    balancer: Balancer, rows: Tensor, tasks: Sequence[str] = TASKS, losses: Tensor | None = None, last: bool = True
) -> Tensor:
    """The gradient of shared parameters at which the losses have these values and these gradients."""
    shared = nn.Parameter(torch.zeros(rows.shape[1]))
    values = torch.arange(1.0, len(rows) + 1) if losses is None else losses
    balancer.backward(Objective(tuple(tasks), rows @ shared + values, torch.zeros(()), shared=[shared], last=last))
    return torch.zeros_like(shared) if shared.grad is None else shared.grad


def test_all_twenty_are_here() -> None:
    assert len(NAMES) == 20
    for name in NAMES:
        kind = METHODS.load(name)
        assert kind.family in ("gramian", "jacobian")
        assert kind.cost
        assert any(character.isdigit() for character in kind.paper), "a paper has a year"
        assert make(name).label == name


@every
def test_one_task_gets_its_plain_gradient(name: str) -> None:
    balancer = make(name)
    step(balancer, jacobian(0))
    for seed in (1, 2):
        rows = jacobian(seed, 1)
        torch.testing.assert_close(step(balancer, rows, TASKS[1:2]), rows[0])


FAR = {
    "zero": torch.zeros(3, 12),
    "one zero": torch.stack([jacobian(0)[0], torch.zeros(12), jacobian(0)[2]]),
    "collinear": jacobian(0)[:1] * torch.tensor([1.0, 2.0, 0.5])[:, None],
    "opposite": jacobian(0)[:1] * torch.tensor([1.0, -1.0, 2.0])[:, None],
    "huge": jacobian(1, 3) * 1e12,
    "tiny": jacobian(2, 3) * 1e-12,
    "mixed": jacobian(3, 3) * torch.tensor([1e6, 1.0, 1e-6])[:, None],
}


@pytest.mark.parametrize("case", FAR)
@every
def test_far_gradients_give_finite_updates(name: str, case: str) -> None:
    balancer = make(name)
    for rows in (FAR[case], jacobian(4, 3), FAR[case]):
        assert step(balancer, rows, TASKS[:3]).isfinite().all()
        assert step(balancer, rows, TASKS[:3], losses=torch.tensor([0.0, 1e-12, 1e6])).isfinite().all()


@every
def test_every_step_moves_what_is_shared(name: str) -> None:
    balancer = make(name)
    for seed in range(4):
        assert step(balancer, jacobian(seed)).abs().max() > 1e-4


@every
def test_results_do_not_depend_on_the_order_of_the_tasks(name: str) -> None:
    straight, turned = make(name), make(name, TASKS[::-1])
    order = [2, 0, 3, 1]
    for seed in range(3):
        rows, losses = jacobian(seed), torch.rand(4, generator=torch.Generator().manual_seed(seed)) + 0.1
        one = step(straight, rows, TASKS, losses)
        other = step(turned, rows[order], [TASKS[i] for i in order], losses[order])
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@every
def test_micro_batches_are_one_batch(name: str) -> None:
    whole, split = make(name), make(name)
    for seed in range(3):
        rows, losses = jacobian(seed), torch.tensor([1.0, 2.0, 0.5, 0.3]) / (seed + 1)
        part = torch.tensor([0.3, 0.5, 0.0, 1.0])
        wanted = step(whole, rows, losses=losses)
        step(split, part[:, None] * rows, losses=part * losses, last=False)
        found = step(split, (1 - part)[:, None] * rows, losses=(1 - part) * losses)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@every
def test_a_skipped_step_leaves_no_trace(name: str) -> None:
    one, other = make(name), make(name)
    for balancer in (one, other):
        step(balancer, jacobian(0))
        step(balancer, jacobian(1))
    step(one, jacobian(2) * torch.inf)
    one.rollback()
    step(one, jacobian(3), last=False)
    one.rollback()
    for seed in (4, 5):
        assert torch.equal(step(one, jacobian(seed)), step(other, jacobian(seed)))


@every
def test_the_state_survives_save_and_load_bit_for_bit(name: str) -> None:
    balancer, fresh = make(name), make(name, TASKS[::-1])
    for seed in range(3):
        step(balancer, jacobian(seed))
    buffer = io.BytesIO()
    torch.save(balancer.state_dict(), buffer)
    buffer.seek(0)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    for seed in (3, 4):
        assert torch.equal(step(fresh, jacobian(seed)), step(balancer, jacobian(seed)))


@every
def test_an_absent_task_keeps_its_state(name: str) -> None:
    balancer = make(name)
    step(balancer, jacobian(0))
    before = balancer.memory.get_extra_state()["values"]
    for seed in (1, 2):
        step(balancer, jacobian(seed)[[0, 2, 3]], [TASKS[0], TASKS[2], TASKS[3]])
    after = balancer.memory.get_extra_state()["values"]
    kept = [key for key in before if key.endswith("/depth")]
    assert all(torch.equal(before[key], after[key]) for key in kept)
    if name == "gradvac":  # the places go by the sorted names: depth is the first
        name = f"targets/{'|'.join(sorted(TASKS))}"
        assert torch.equal(before[name][0], after[name][0])
        assert torch.equal(before[name][:, 0], after[name][:, 0])
        assert not torch.equal(before[name], after[name])
    elif name in ("gradnorm", "moco", "modo", "sdmgrad", "db_mtl", "excess_mtl"):
        assert kept
    else:
        assert not before


def test_gradnorm_waits_for_a_first_loss_above_zero() -> None:
    """Such as that of detection on a batch without objects; until then the task trains at the mean rate."""
    balancer = make("gradnorm", lr=0.1)
    for seed, first in enumerate((0.0, 2.0, 1.0)):
        assert step(balancer, jacobian(seed), losses=torch.tensor([1.0, first, 1.0, 1.0])).isfinite().all()
    held = balancer.memory.get_extra_state()["values"]
    assert held["first/depth"] == 2
    assert all(value.isfinite().all() for value in held.values())


def test_gradnorm_keeps_its_weights_above_zero_at_any_rate() -> None:
    balancer = make("gradnorm", lr=50.0, alpha=0.0)
    for seed in range(6):
        step(balancer, jacobian(seed))
        weights = balancer.memory.stack(TASKS, torch.ones(()), "weight")
        assert (weights > 0).all()
        torch.testing.assert_close(weights.sum(), torch.tensor(4.0))


def test_gradnorm_shares_out_the_weight_of_the_tasks_that_are_there() -> None:
    balancer = make("gradnorm", lr=0.1)
    for seed in range(3):
        step(balancer, jacobian(seed)[:3], TASKS[:3])
    before = balancer.memory.stack(TASKS[:2], torch.ones(()), "weight")
    objective = Objective(TASKS[:2], jacobian(4)[:2] @ nn.Parameter(torch.ones(12)), torch.zeros(()))
    ours = torch.stack(list(balancer.backward(objective).weights.values()))
    torch.testing.assert_close(ours, 2 * before / before.sum())
    torch.testing.assert_close(balancer.memory.stack(TASKS[:2], torch.ones(()), "weight").sum(), before.sum())
    step(balancer, jacobian(5))
    held = balancer.memory.get_extra_state()["values"]
    # a task that comes late has its own count of steps, and with it Adam's full first step
    assert [held[f"count/{task}"].item() for task in TASKS] == [5, 5, 4, 1]


REMEMBER = ("moco", "modo", "sdmgrad", "db_mtl", "excess_mtl")


@pytest.mark.parametrize("name", REMEMBER)
def test_methods_with_memory_by_coordinate_refuse_the_features(name: str) -> None:
    with pytest.raises(ConfigError, match="features"):
        METHODS.load(name)(TASKS, space="features")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REMEMBER])
def test_the_others_take_them(name: str) -> None:
    balancer = METHODS.load(name)(TASKS, space="features")
    features = nn.Parameter(torch.ones(12))
    common = 2 * features
    losses = jacobian(0) @ common + 1
    balance = balancer.backward(Objective(TASKS, losses, torch.zeros(()), common=[common], shared=[features]))
    assert balance.gramian is not None
    torch.testing.assert_close(balance.gramian, jacobian(0) @ jacobian(0).T)
    assert features.grad is not None
    assert features.grad.abs().max() > 0


BAD = {
    "cagrad": {"c": -0.1},
    "conicgrad": {"c": 1.0},
    "imgrad": {"c": -1.0},
    "upgrad": {"regularization": -1.0},
    "dualproj": {"regularization": -1.0},
    "fairgrad": {"alpha": 0.0},
    "nash_mtl": {"update_every": 0, "max_norm": -1.0},
    "gradvac": {"beta": 1.5},
    "graddrop": {"leak": -0.5},
    "gradnorm": {"alpha": -1.0, "lr": 0.0},
    "moco": {"beta": 0.0, "gamma": -1.0, "rho": -1.0, "decay": -1.0},
    "modo": {"gamma": 0.0, "rho": -1.0},
    "sdmgrad": {"strength": -1.0, "lr": 0.0, "momentum": 1.0, "iterations": 0},
    "db_mtl": {"beta": 1.0, "decay": -1.0},
    "excess_mtl": {"step_size": 0.0, "warmup": 0},
}


@pytest.mark.parametrize(("name", "option"), [(name, option) for name, options in BAD.items() for option in options])
def test_an_option_out_of_range_is_named(name: str, option: str) -> None:
    with pytest.raises(ConfigError, match=rf"balancing\.{option}: found .* expected"):
        make(name, **{option: BAD[name][option]})
