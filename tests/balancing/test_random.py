"""RLW: its distribution, and what its numbers are functions of."""

from __future__ import annotations

import torch
from drive import TASKS, step, values
from torchjd.scalarization import Random as Oracle

from segweave.balancing.random import Random


def weights(seed: int, steps: int, tasks: tuple[str, ...] = TASKS) -> torch.Tensor:
    balancer = Random(tasks, seed)
    return torch.stack([step(balancer, values(*[1.0] * len(tasks)), tasks) for _ in range(steps)])


def test_the_distribution_is_torchjds() -> None:
    torch.manual_seed(0)
    oracle, drawn = Oracle(), []
    for _ in range(3000):
        losses = torch.ones(3, requires_grad=True)
        oracle(losses).backward()
        assert losses.grad is not None
        drawn.append(losses.grad)
    ours, theirs = weights(1, 3000), torch.stack(drawn)
    torch.testing.assert_close(ours.sum(1), torch.ones(3000))
    # standard error of a mean of 3000 numbers below 0.25 in deviation: 0.005
    assert (ours.mean(0) - theirs.mean(0)).abs().max() < 0.02
    assert (ours.std(0) - theirs.std(0)).abs().max() < 0.02
    torch.testing.assert_close(ours.quantile(0.9, 0), theirs.quantile(0.9, 0), atol=0.03, rtol=0)


def test_a_function_of_seed_step_and_task() -> None:
    first = weights(1, 4)
    torch.rand(7)  # the global generator has no part in it
    assert torch.equal(first, weights(1, 4))
    assert not torch.allclose(first, weights(2, 4))
    assert len({tuple(row.tolist()) for row in first}) == 4
    turned = (TASKS[2], TASKS[0], TASKS[1])
    torch.testing.assert_close(weights(1, 4, turned), first[:, [2, 0, 1]])


def test_one_draw_for_all_micro_batches_of_a_step() -> None:
    one, two = Random(TASKS, 3), Random(TASKS, 3)
    for _ in range(2):
        torch.testing.assert_close(step(one, values(1, 1, 1)), step(two, values(1, 1, 1), shares=(0.5, 0.25, 0.25)))
