"""Methods that remember gradients or mix them by coordinate, each against an independent oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchjd import aggregation

from segweave.balancing import METHODS
from segweave.balancing.balancer import Objective, RowBalancer
from segweave.balancing.graddrop import signed
from segweave.balancing.simplex import project

TASKS = ("semantic", "depth", "edges")


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    """Gradients and losses of some steps, in float64 so that an oracle is met to more than float32."""
    result = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(3, 10, generator=generator, dtype=torch.float64) * torch.tensor([[2.0], [0.3], [1.0]])
        result.append((rows, torch.rand(3, generator=generator, dtype=torch.float64) + 0.1))
    return result


def updates(name: str, count: int, **options: object) -> list[Tensor]:
    """The shared gradient of some steps in a row."""
    balancer = METHODS.load(name)(TASKS, **options)
    found = []
    for rows, losses in batches(count):
        shared = torch.nn.Parameter(torch.zeros(10, dtype=torch.float64))
        balancer.backward(Objective(TASKS, rows @ shared + losses, torch.zeros(()), shared=[shared]))
        assert shared.grad is not None
        found.append(shared.grad)
    return found


def nearest_on_the_simplex(values: np.ndarray) -> np.ndarray:
    """By bisection for the level that leaves a sum of 1."""
    low, high = values.min() - 1, values.max()
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if np.maximum(values - level, 0).sum() > 1 else (low, level)
    return np.maximum(values - low, 0)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8))
@settings(deadline=None)
def test_projection_on_the_simplex(values: list[float]) -> None:
    wanted = nearest_on_the_simplex(np.array(values))
    np.testing.assert_allclose(project(torch.tensor(values, dtype=torch.float64)).numpy(), wanted, atol=1e-9)


def test_moco_is_the_formula_of_the_paper() -> None:
    mean, weights = None, np.full(3, 1 / 3)
    found = updates("moco", 5, beta=0.6, gamma=0.05, rho=0.2, decay=0.5)
    for step, (rows, _) in enumerate(batches(5)):
        mean = rows.numpy() if mean is None else mean - 0.6 / (step + 1) ** 0.5 * (mean - rows.numpy())
        slope = mean @ mean.T @ weights + 0.2 * weights
        weights = nearest_on_the_simplex(weights - 0.05 / (step + 1) ** 0.5 * slope)
        np.testing.assert_allclose(found[step].numpy(), weights @ mean, rtol=1e-5, atol=1e-6)


def test_modo_is_torchjds_on_two_batches() -> None:
    oracle, before, weights = aggregation.MoDoWeighting(gamma=0.05, rho=0.2), None, torch.zeros(3)
    found = updates("modo", 5, gamma=0.05, rho=0.2)
    for step, (rows, _) in enumerate(batches(5)):
        weights = oracle((rows if before is None else before) @ rows.T)
        torch.testing.assert_close(found[step], weights @ rows, rtol=1e-5, atol=1e-6)
        before = rows
    assert not torch.allclose(weights, torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.05)


def test_sdmgrad_is_torchjds_on_two_batches() -> None:
    oracle, before = aggregation.SDMGradWeighting(lr=0.5, momentum=0.5, n_iter=7, lambda_=0.4), None
    found = updates("sdmgrad", 5, lr=0.5, momentum=0.5, iterations=7, strength=0.4)
    for step, (rows, _) in enumerate(batches(5)):
        weights = oracle((rows if before is None else before) @ rows.T)
        torch.testing.assert_close(found[step], weights @ rows, rtol=1e-4, atol=1e-5)
        before = rows


@pytest.mark.parametrize("warmup", [1, 3])
def test_excess_mtl_is_torchjds(warmup: int) -> None:
    oracle, weights = aggregation.ExcessMTLWeighting(robust_step_size=0.7, n_warmup_steps=warmup), torch.zeros(3)
    found = updates("excess_mtl", 6, step_size=0.7, warmup=warmup)
    for step, (rows, _) in enumerate(batches(6)):
        weights = oracle(rows)
        torch.testing.assert_close(found[step], weights @ rows, rtol=1e-4, atol=1e-5)
    assert weights.max() > 0.4


def test_excess_mtl_comes_back_from_a_weight_of_zero() -> None:
    """Weights that are held as they are underflow to 0 and stay there; logarithms do not."""
    balancer, oracle = METHODS.load("excess_mtl")(TASKS), aggregation.ExcessMTLWeighting(n_warmup_steps=1)
    ours, theirs = [], []
    for sizes in ([1e-3, 1e-3, 1e-3], [1.0, 1e-3, 1e-3], [1e-3, 1e4, 1e-3]):
        rows = torch.tensor(sizes)[:, None].expand(3, 10)
        ours.append(balancer.weigh(rows, TASKS, torch.ones(3), True))
        theirs.append(oracle(rows))
    assert ours[1][0] == theirs[1][0] == 1
    assert theirs[2][0] == 1
    assert ours[2][1] == 1


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_db_mtl_is_the_formula_of_the_paper(beta: float) -> None:
    mean = None
    found = updates("db_mtl", 4, beta=beta)
    for step, (rows, losses) in enumerate(batches(4)):
        logarithmic = rows.numpy() / losses.numpy()[:, None]
        mean = logarithmic if mean is None else beta * mean + (1 - beta) * logarithmic
        norms = np.linalg.norm(mean, axis=1)
        wanted = norms.max() * (mean / norms[:, None]).sum(0)
        np.testing.assert_allclose(found[step].numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_db_mtl_gives_the_layers_below_the_last_the_same_logarithms() -> None:
    """That layer and those below it get the same mixture of `g_i / L_i`, brought to one length."""
    (rows, losses), (below, _) = batches(2)
    last, low = (torch.nn.Parameter(torch.zeros(10, dtype=torch.float64)) for _ in range(2))
    values = rows @ last + below @ low + losses
    objective = Objective(TASKS, values, torch.zeros(()), shared=[last, low], closing=[last])
    METHODS.load("db_mtl")(TASKS, space="last").backward(objective)
    logarithmic, deeper = rows / losses[:, None], below / losses[:, None]
    norms = logarithmic.norm(dim=1)
    torch.testing.assert_close(last.grad, (norms.max() / norms) @ logarithmic, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(low.grad, (norms.max() / norms) @ deeper, rtol=1e-4, atol=1e-5)


def test_db_mtl_does_not_see_the_scale_of_a_loss() -> None:
    one, other = METHODS.load("db_mtl")(TASKS), METHODS.load("db_mtl")(TASKS)
    scales = torch.tensor([1e3, 1.0, 1e-2], dtype=torch.float64)
    for rows, losses in batches(3):
        found = []
        for balancer, factors in ((one, torch.ones_like(scales)), (other, scales)):
            shared = torch.nn.Parameter(torch.zeros(10, dtype=torch.float64))
            values = factors * (rows @ shared + losses)
            balancer.backward(Objective(TASKS, values, torch.zeros(()), shared=[shared]))
            found.append(shared.grad)
        torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@given(st.integers(2, 6), st.integers(0, 1000), st.sampled_from([0.0, 0.3, 1.0]))
@settings(deadline=None, max_examples=40)
def test_graddrop_is_torchjds_with_the_same_numbers(n: int, seed: int, leak: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows, drawn = torch.randn(n, 50, generator=generator), torch.rand(50, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda *_, **__: drawn)
        wanted = aggregation.GradDrop(leak=torch.full((n,), leak))(rows)
    torch.testing.assert_close(signed(rows, drawn, leak), wanted)


def test_graddrop_draws_from_seed_and_step_and_keeps_the_mean_sign() -> None:
    rows = torch.tensor([[3.0, 1.0, 2.0], [-1.0, -1.0, 5.0]])
    balancer = METHODS.load("graddrop")(TASKS)
    drawn = []
    for step in range(2000):
        balancer.memory.step = step
        drawn.append(balancer.aggregate(rows, TASKS[:2], torch.ones(2), True))
    assert torch.equal(balancer.aggregate(rows, TASKS[:2], torch.ones(2), True), drawn[-1])
    # purity 3/4: 3 with that probability, else -1; 1/2: 1 or -1; 1: always the sum
    wanted = torch.tensor([0.75 * 3 - 0.25, 0.0, 7.0])
    torch.testing.assert_close(torch.stack(drawn).mean(0), wanted, atol=0.15, rtol=0)
    assert set(torch.stack(drawn)[:, 0].tolist()) == {3.0, -1.0}


@pytest.mark.parametrize("name", ["moco", "modo", "sdmgrad", "db_mtl", "excess_mtl"])
def test_state_of_a_micro_batch_that_is_not_the_last(name: str) -> None:
    balancer = METHODS.load(name)(TASKS, space="parameters")
    assert isinstance(balancer, RowBalancer)
    (rows, losses), *_ = batches(1)
    shared = torch.nn.Parameter(torch.zeros(10, dtype=torch.float64))
    balancer.backward(Objective(TASKS, rows @ shared + losses, torch.zeros(()), shared=[shared], last=False))
    assert not balancer.memory.get_extra_state()["values"]


@pytest.mark.parametrize(
    ("name", "kind"), [("moco", "share"), ("modo", "share"), ("sdmgrad", "share"), ("excess_mtl", "logit")]
)
def test_an_absent_task_keeps_its_part_of_the_weight(name: str, kind: str) -> None:
    options = {"lr": 0.005} if name == "sdmgrad" else {}  # the default jumps to a corner with so few numbers
    balancer = METHODS.load(name)(TASKS, space="parameters", **options)

    def parts() -> Tensor:
        held = balancer.memory.stack(TASKS, torch.zeros((), dtype=torch.float64), kind)
        return held.softmax(0) if kind == "logit" else held / held.sum()

    seen = []
    for number, (rows, losses) in enumerate(batches(5)):
        places = [0, 1, 2] if number < 2 else [0, 2]
        shared = torch.nn.Parameter(torch.zeros(10, dtype=torch.float64))
        values = (0.3 * rows @ shared + losses)[places]
        balance = balancer.backward(
            Objective(tuple(TASKS[i] for i in places), values, torch.zeros(()), shared=[shared])
        )
        seen.append(parts())
        if name in ("moco", "modo", "excess_mtl") and number >= 2:
            shown = torch.stack(list(balance.weights.values()))
            torch.testing.assert_close((seen[-1] / seen[-1][places].sum())[places], shown.to(seen[-1]))
    assert 0 < seen[1][1] < 1
    torch.testing.assert_close(seen[-1][1], seen[1][1])
    assert not torch.allclose(seen[-1], seen[1])
