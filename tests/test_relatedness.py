"""What the gradients and the representations of tasks have in common, against the definitions."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segweave.batch import Batch
from segweave.data.loader import Effective
from segweave.model import MultiTaskModel, create_model
from segweave.relatedness import cka, probe, representation
from segweave.tasks import Depth, Semantic
from test_train import PARTLY, batch, network, one_step, split


def normalised(dropout: float = 0.5) -> MultiTaskModel:
    torch.manual_seed(0)
    tasks = [Semantic("semantic", classes=3), Depth("depth")]
    return create_model(tasks, backbone="test_resnet", decoder={"name": "fpn", "width": 8, "dropout": dropout})


def losses(model: MultiTaskModel, whole: Batch) -> dict[str, Tensor]:
    """alpha_i L_i of a whole batch by the network's own outputs; each loss over its own count."""
    outputs = model(whole.images)
    found = {}
    for name, task in model.tasks.items():
        if name in whole.targets:
            rows, value = whole.targets[name].rows, whole.targets[name].value
            terms = task.loss(outputs[name][rows], value)
            found[name] = task.weight * sum(term.sum.sum() / term.count.sum() for term in terms.values())
    return found


def by_definition(
    model: MultiTaskModel, whole: Batch, rates: Sequence[float]
) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], float]]:
    """Cosines and lookahead by a network of its own for each step of gradient descent."""
    model.train()
    shared = model.shared()
    before = losses(model, whole)
    gradients = {
        name: torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True) for name, loss in before.items()
    }
    flat = {
        name: torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(shared, row, strict=True)])
        for name, row in gradients.items()
    }
    cosines, lookahead = {}, {}
    for source, row in gradients.items():
        other = copy.deepcopy(model)
        with torch.no_grad():
            for parameter, gradient, rate in zip(other.shared(), row, rates, strict=True):
                if gradient is not None:
                    parameter -= rate * gradient
            after = losses(other, whole)
        for name, loss in before.items():
            lookahead[name, source] = 100 * (1 - float((after[name] / loss).detach()))
            cosines[name, source] = float(nn.functional.cosine_similarity(flat[name], flat[source], dim=0))
    return cosines, lookahead


@pytest.mark.parametrize("labelled", [None, PARTLY, {"semantic": [2], "depth": [0, 1]}], ids=["all", "some", "two"])
@pytest.mark.parametrize("size", [2, 4])
def test_cosines_and_lookahead_are_those_of_the_definitions(
    labelled: Mapping[str, list[int]] | None, size: int
) -> None:
    model, whole = network(), batch(labelled=labelled)
    backbone = {id(p) for p in model.encoder.parameters()}
    groups = [
        {"params": [p for p in model.parameters() if id(p) in backbone], "lr": 0.02},
        {"params": [p for p in model.parameters() if id(p) not in backbone], "lr": 0.1},
    ]
    rates = [0.02 if id(p) in backbone else 0.1 for p in model.shared()]
    cosines, lookahead = by_definition(network(), whole, rates)
    found = probe(model, Effective(3, 0, split(whole, size)), torch.optim.SGD(groups), seed=0)
    assert list(found.tasks) == list(whole.targets)
    for i, a in enumerate(found.tasks):
        for j, b in enumerate(found.tasks):
            # float32 sums over some ten thousand weights
            assert float(found.cosines[i, j]) == pytest.approx(cosines[a, b], abs=2e-4), (a, b)
            assert float(found.lookahead[i, j]) == pytest.approx(lookahead[a, b], abs=2e-3), (a, b)
    assert float(found.lookahead.diagonal().min()) > 0.01  # a step for a task helps it


def test_a_step_of_adamw_has_its_lengths() -> None:
    model, whole = network(), batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.9, 0.99), eps=1e-6)
    for _ in range(2):
        optimizer.zero_grad()
        sum(losses(model.train(), whole).values(), torch.zeros(())).backward()
        optimizer.step()
    found = probe(model, Effective(2, 0, [whole]), optimizer, seed=0)
    before = losses(model, whole)
    gradients = torch.autograd.grad(before["depth"], model.shared(), allow_unused=True)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for new, old, gradient in zip(other.shared(), model.shared(), gradients, strict=True):
            if gradient is not None:
                second = optimizer.state[old]["exp_avg_sq"] / (1 - 0.99**2)
                new -= 0.01 * gradient / (second.sqrt() + 1e-6)
        after = losses(other, whole)
    names = list(found.tasks)
    for i, name in enumerate(names):
        expected = 100 * (1 - float((after[name] / before[name]).detach()))
        assert float(found.lookahead[i, names.index("depth")]) == pytest.approx(expected, abs=2e-3)


def test_network_optimizer_and_chance_stay_as_they_are() -> None:
    """With batch normalisation and dropout, whose next step must be the same with and without a look."""
    found = []
    for looked in (False, True):
        model, whole = normalised(), batch(labelled={"semantic": [0, 1, 2, 3], "depth": [1, 2]})
        one_step(model, [whole])
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        model.eval()
        if looked:
            before = torch.random.get_rng_state()
            state = {key: value.clone() for key, value in model.state_dict().items()}
            first, second = (probe(model, Effective(1, 0, split(whole, 2)), optimizer, seed=0) for _ in range(2))
            assert torch.equal(first.lookahead, second.lookahead)
            assert torch.equal(before, torch.random.get_rng_state())
            assert not optimizer.state
            assert not any(module.training for module in model.modules())
            for key, value in model.state_dict().items():
                assert torch.equal(value, state[key]), key
        one_step(model, [whole])
        found.append(model.state_dict())
    for key, value in found[0].items():
        assert torch.equal(value, found[1][key]), key


def brute_force_hsic(k: np.ndarray, m: np.ndarray) -> float:
    """The U-statistic of Song et al. (2012): the mean over four different inputs."""
    terms = [k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in permutations(range(len(k)), 4)]
    return float(np.mean(terms))


def test_alignment_is_the_one_of_the_definition() -> None:
    dice = np.random.default_rng(0)
    x, y = dice.normal(size=(7, 5)), dice.normal(size=(7, 9))
    y[:, :5] += x
    kernels = [z @ z.T for z in (x - x.mean(0), y - y.mean(0))]
    cross, own, other = (brute_force_hsic(kernels[a], kernels[b]) for a, b in ((0, 1), (0, 0), (1, 1)))
    assert cka(torch.tensor(x), torch.tensor(y)) == pytest.approx(cross / (own * other) ** 0.5, rel=1e-9)


def test_alignment_is_of_what_representations_tell_not_of_how() -> None:
    dice = torch.Generator().manual_seed(0)
    x = torch.randn(60, 10, generator=dice, dtype=torch.float64)
    turned = x @ torch.linalg.qr(torch.randn(10, 10, generator=dice, dtype=torch.float64))[0]
    assert cka(x, 3 * turned + 7) == pytest.approx(1, abs=1e-9)
    # more channels than inputs, which the biased estimate takes for likeness
    strangers = [torch.randn(60, 500, generator=dice) for _ in range(2)]
    assert abs(cka(*strangers)) < 0.05
    assert np.isnan(cka(x, torch.ones(60, 3)))


def test_representations_are_the_means_of_the_cells() -> None:
    model, images = normalised(), torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    found = representation(model, [images[:2], images[2:]], grid=2)
    with torch.no_grad():
        levels = model.eval().features(images)[1]
    assert len(found) == len(levels)
    for rows, level in zip(found, levels, strict=True):
        half = level.shape[-1] // 2
        assert rows.shape == (3 * 4, level.shape[1])
        torch.testing.assert_close(rows[4 * 2 + 1], level[2, :, :half, half:].mean((1, 2)), rtol=1e-4, atol=1e-5)
