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
from segweave.balancing.graddrop import one_signed
from segweave.balancing.memory import Memory
from segweave.balancing.simplex import keep, length, project, shares
from segweave.seeds import seed_for

TASKS = ("semantic", "depth", "edges")


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    """Gradients and losses of some steps, in float64; half of a gradient is the same in every step, half is noise."""
    result = []
    signal = torch.randn(3, 10, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(3, 10, generator=generator, dtype=torch.float64)
        rows = (signal + noise) * torch.tensor([[2.0], [0.3], [1.0]])
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


def weigh(name: str, count: int, **options: object) -> list[Tensor]:
    """The weights of some steps in a row, in float64."""
    balancer = METHODS.load(name)(TASKS, **options)
    found = []
    for rows, losses in batches(count):
        found.append(balancer.weigh(rows, TASKS, losses, True))
        balancer.memory.step += 1
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


def test_shares_of_new_tasks_and_of_tasks_without_any_part() -> None:
    memory, like = Memory(), torch.zeros(3, 1, dtype=torch.float64)
    weights, together = shares(memory, TASKS[:2], like[:2])
    assert weights.tolist() == [0.5, 0.5]
    keep(memory, TASKS[:2], torch.tensor([0.0, 1.0], dtype=torch.float64), together)
    # the new one has as much as a task has in the mean
    torch.testing.assert_close(shares(memory, TASKS, like)[0], torch.tensor([0.0, 2, 1], dtype=torch.float64) / 3)
    assert shares(memory, TASKS[:1], like[:1])[0].tolist() == [1.0]


def test_the_mean_length_of_rows_can_divide() -> None:
    assert length(torch.tensor([[3.0, 4.0], [0.0, 1.0]])) == 3
    assert length(torch.zeros(2, 3)) == 1


@pytest.mark.parametrize("normalize", [False, True])
def test_moco_is_the_formula_of_the_paper(normalize: bool) -> None:
    """With `normalize` the Gramian of the means is over their squared mean length."""
    mean, weights = None, np.full(3, 1 / 3)
    found = updates("moco", 5, beta=0.6, gamma=0.05, rho=0.2, decay=0.5, normalize=normalize)
    for step, (rows, _) in enumerate(batches(5)):
        mean = rows.numpy() if mean is None else mean - 0.6 / (step + 1) ** 0.5 * (mean - rows.numpy())
        size = np.linalg.norm(mean, axis=1).mean() if normalize else 1
        slope = mean @ mean.T @ weights / size**2 + 0.2 * weights
        weights = nearest_on_the_simplex(weights - 0.05 / (step + 1) ** 0.5 * slope)
        np.testing.assert_allclose(found[step].numpy(), weights @ mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
def test_modo_is_torchjds_on_two_batches(normalize: bool) -> None:
    oracle, before = aggregation.MoDoWeighting(gamma=0.05, rho=0.2), None
    found = weigh("modo", 12, gamma=0.05, rho=0.2, normalize=normalize)
    for step, (rows, _) in enumerate(batches(12)):
        before = rows if before is None else before
        size = before.norm(dim=1).mean() * rows.norm(dim=1).mean() if normalize else 1
        torch.testing.assert_close(found[step], oracle(before @ rows.T / size), rtol=1e-9, atol=1e-12)
        before = rows
    assert not torch.allclose(found[-1], torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.05)


@pytest.mark.parametrize("name", ["modo", "sdmgrad", "excess_mtl"])
def test_the_weights_mix_the_gradients_of_this_batch(name: str) -> None:
    wanted = [weights @ rows for weights, (rows, _) in zip(weigh(name, 4), batches(4), strict=True)]
    for one, other in zip(updates(name, 4), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lr", [0.05, 10.0])
def test_sdmgrad_is_torchjds_on_two_batches(lr: float) -> None:
    oracle, before = aggregation.SDMGradWeighting(lr=lr, momentum=0.5, n_iter=7, lambda_=0.4), None
    found = weigh("sdmgrad", 12, lr=lr, momentum=0.5, iterations=7, strength=0.4)
    for step, (rows, _) in enumerate(batches(12)):
        weights = oracle((rows if before is None else before) @ rows.T)
        torch.testing.assert_close(found[step], weights, rtol=1e-6, atol=1e-7)  # it adds 1e-8 to the divisor
        before = rows


def test_sdmgrad_waits_where_no_task_agrees_with_itself_from_batch_to_batch() -> None:
    """The divisor is 0 there; torchjd divides by 1e-8 and jumps to a corner."""
    (rows, losses), *_ = batches(1)
    balancer = METHODS.load("sdmgrad")(TASKS)
    weights = balancer.weigh(rows, TASKS, losses, True)
    torch.testing.assert_close(balancer.weigh(-rows, TASKS, losses, True), weights)
    assert not torch.allclose(balancer.weigh(-rows, TASKS, losses, True), weights)


def test_sdmgrad_settles_on_its_optimum() -> None:
    """With one batch again and again, at the point of the simplex nearest to `-strength` times the mean gradient."""
    (rows, _), *_ = batches(1)
    balancer = METHODS.load("sdmgrad")(TASKS, iterations=400)
    found = 1.3 * balancer.weigh(rows, TASKS, torch.ones(3), True) - 0.1
    shift = 0.1 * rows.sum(0)
    grid = torch.arange(0, 1.001, 0.01, dtype=torch.float64)
    points = torch.stack([p.flatten() for p in torch.meshgrid(grid, grid, indexing="ij")], 1)
    points = torch.cat([points, 1 - points.sum(1, keepdim=True)], 1)
    best = (points[points[:, 2] > -1e-9] @ rows + shift).norm(dim=1).min()
    assert found.min() > -1e-9
    assert (found @ rows + shift).norm() <= best + 1e-9


@pytest.mark.parametrize("name", ["moco", "modo", "sdmgrad"])
def test_defaults_weigh_alike_at_every_scale_and_keep_several_tasks(name: str) -> None:
    """Gradients of 0.1, 1 and 10, half of them noise: the shortest mixture alone has 0.99 of the first task."""
    shapes = torch.tensor([[0.1], [1.0], [10.0]], dtype=torch.float64)
    signal = torch.randn(3, 100, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    kept = {scale: METHODS.load(name)(TASKS) for scale in (1e-9, 1.0, 1e9)}
    for step in range(50):
        noise = torch.randn(3, 100, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        found = {}
        for scale, balancer in kept.items():
            rows = balancer.track(scale * shapes * (signal + noise), TASKS, torch.ones(3), True)
            found[scale] = balancer.weigh(rows, TASKS, torch.ones(3), True)
            balancer.memory.step += 1
        torch.testing.assert_close(found[1e-9], found[1.0], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(found[1e9], found[1.0], rtol=1e-6, atol=1e-9)
        assert found[1.0].max() < 0.9
        torch.testing.assert_close(found[1.0].sum(), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("warmup", [1, 3])
def test_excess_mtl_is_torchjds(warmup: int) -> None:
    oracle = aggregation.ExcessMTLWeighting(robust_step_size=0.7, n_warmup_steps=warmup)
    found = weigh("excess_mtl", 12, step_size=0.7, warmup=warmup)
    for step, (rows, _) in enumerate(batches(12)):
        torch.testing.assert_close(found[step], oracle(rows), rtol=1e-9, atol=1e-12)
        if step < warmup:
            assert found[step].tolist() == pytest.approx([1 / 3] * 3)
    assert found[-1].max() > 0.4


def test_excess_mtl_comes_back_from_a_weight_of_zero() -> None:
    """Weights that are held as they are underflow to 0 and stay there; logarithms do not."""
    balancer = METHODS.load("excess_mtl")(TASKS, step_size=1.0)
    oracle = aggregation.ExcessMTLWeighting(robust_step_size=1.0, n_warmup_steps=1)
    ours, theirs = [], []
    for sizes in ([1e-3, 1e-3, 1e-3], [1.0, 1e-3, 1e-3], [1e-3, 1e4, 1e-3]):
        rows = torch.tensor(sizes)[:, None].expand(3, 10)
        ours.append(balancer.weigh(rows, TASKS, torch.ones(3), True))
        theirs.append(oracle(rows))
    assert ours[1][0] == theirs[1][0] == 1
    assert theirs[2][0] == 1
    assert ours[2][1] == 1


@pytest.mark.parametrize(("beta", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.9, 0.5)])
def test_db_mtl_is_libmtls_without_its_short_start(beta: float, decay: float) -> None:
    """LibMTL's buffer starts at zero, so that its updates are too short by the share that is still missing."""
    held, missing = np.zeros((3, 10)), 1.0
    found = updates("db_mtl", 8, beta=beta, decay=decay)
    for step, (rows, losses) in enumerate(batches(8)):
        faded = beta / (step + 1) ** decay
        logarithmic = rows.numpy() / (losses.numpy() + 1e-8)[:, None]
        held = logarithmic + faded * (held - logarithmic)
        missing *= faded
        norms = np.linalg.norm(held, axis=1)
        wanted = (norms.max() / (norms + 1e-8)) @ held
        np.testing.assert_allclose((1 - missing) * found[step].numpy(), wanted, rtol=1e-4, atol=1e-5)


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
    torch.testing.assert_close(one_signed(rows, drawn, leak), wanted)


@pytest.mark.parametrize("leak", [0.0, 0.4])
def test_graddrop_pools_the_images_as_the_paper_does(leak: float) -> None:
    """Value by value: one draw for all images, by the signs of the features times the gradients."""
    generator = torch.Generator().manual_seed(3)
    maps = [torch.randn(4, 2, 3, 3, generator=generator), torch.randn(4, 5, generator=generator)]
    features = [torch.nn.Parameter(feature) for feature in maps]
    weights = [torch.randn(3, *feature.shape, generator=generator) for feature in maps]
    common = [1.0 * feature for feature in features]
    parts = [(weight * feature).flatten(1).sum(1) for weight, feature in zip(weights, common, strict=True)]
    losses = parts[0] + parts[1]
    balancer = METHODS.load("graddrop")(TASKS, seed=5, space="features", leak=leak, pool=True)
    balancer.backward(Objective(TASKS, losses, torch.zeros(()), common=common, shared=features))
    draws = torch.Generator().manual_seed(seed_for(5, 3, 0))
    for feature, weight in zip(features, weights, strict=True):
        drawn = torch.rand(feature[0].numel(), generator=draws)
        wanted = np.zeros((4, feature[0].numel()))
        rows, signs = weight.flatten(2).numpy(), np.sign(feature.detach().flatten(1).numpy())
        for place in range(wanted.shape[1]):
            signals = [(signs[:, place] * rows[task, :, place]).sum() for task in range(3)]
            purity = (1 + sum(signals) / sum(map(abs, signals))) / 2
            for task, signal in enumerate(signals):
                kept = signal > 0 if purity > drawn[place] else signal < 0
                wanted[:, place] += (1.0 if kept else leak) * rows[task, :, place]
        assert feature.grad is not None
        np.testing.assert_allclose(feature.grad.flatten(1).numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_graddrop_draws_from_seed_and_step_and_keeps_the_mean_sign() -> None:
    rows = torch.tensor([[3.0, 1.0, 2.0], [-1.0, -1.0, 5.0]])
    balancer = METHODS.load("graddrop")(TASKS)
    drawn = []
    for step in range(2000):
        balancer.memory.step = step
        drawn.append(balancer.aggregate(rows, TASKS[:2], []))
    assert torch.equal(balancer.aggregate(rows, TASKS[:2], []), drawn[-1])
    # purity 3/4: 3 with that probability, else -1; 1/2: 1 or -1; 1: always the sum
    wanted = torch.tensor([0.75 * 3 - 0.25, 0.0, 7.0])
    torch.testing.assert_close(torch.stack(drawn).mean(0), wanted, atol=0.15, rtol=0)
    assert set(torch.stack(drawn)[:, 0].tolist()) == {3.0, -1.0}


@pytest.mark.parametrize("space", ["parameters", "last"])
@pytest.mark.parametrize("name", ["moco", "modo", "sdmgrad", "db_mtl", "excess_mtl"])
def test_state_of_a_micro_batch_that_is_not_the_last(name: str, space: str) -> None:
    balancer = METHODS.load(name)(TASKS, space=space)
    assert isinstance(balancer, RowBalancer)
    (rows, losses), *_ = batches(1)
    shared = torch.nn.Parameter(torch.zeros(10, dtype=torch.float64))
    values = rows @ shared + losses
    balancer.backward(Objective(TASKS, values, torch.zeros(()), shared=[shared], closing=[shared], last=False))
    assert not balancer.memory.get_extra_state()["values"]


@pytest.mark.parametrize(
    ("name", "kind"), [("moco", "share"), ("modo", "share"), ("sdmgrad", "share"), ("excess_mtl", "logit")]
)
def test_an_absent_task_keeps_its_part_of_the_weight(name: str, kind: str) -> None:
    options = {"sdmgrad": {"lr": 0.005}, "excess_mtl": {"step_size": 1.0}}.get(name, {})  # inside the simplex, and seen
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


def test_db_mtl_at_the_last_layer_weighs_micro_batches_as_the_batch_that_they_make() -> None:
    (rows, losses), *_ = batches(1)

    def gradient(parts: int) -> Tensor:
        balancer = METHODS.load("db_mtl")(TASKS, space="last")
        assert balancer.ahead
        shared = torch.nn.Parameter(torch.zeros(10, dtype=torch.float64))
        for number in range(parts):
            part = (rows @ shared + losses) / parts
            objective = Objective(TASKS, part, torch.zeros(()), shared=[shared], closing=[shared], whole=losses)
            objective.last = number == parts - 1
            balancer.backward(objective)
        assert shared.grad is not None
        return shared.grad

    for parts in (2, 4):
        torch.testing.assert_close(gradient(parts), gradient(1), rtol=1e-5, atol=1e-7)
