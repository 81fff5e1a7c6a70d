"""How related the tasks of a network are: what their gradients and their representations have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from segweave.batch import Batch
from segweave.data.loader import Effective
from segweave.forward import Forward, frozen_norms, label_counts, train_mode
from segweave.model import MultiTaskModel
from segweave.penalties import keep_statistics


@dataclass(frozen=True)
class Probe:
    """What was found of the tasks of one batch.

    Args:
        tasks: that have something labelled in it.
        cosines: between the gradients of two tasks at the shared parameters, in [-1, 1]; nan where one is zero.
        lookahead: `lookahead[i, j]`, in per cent: by how much the loss of task `i` falls after a step of the shared
            parameters along the gradient of task `j` alone; nan where the loss is 0.
    """

    tasks: Sequence[str]
    cosines: Float64[Tensor, "tasks tasks"]
    lookahead: Float64[Tensor, "tasks tasks"]


def probe(model: MultiTaskModel, effective: Effective, optimizer: torch.optim.Optimizer, seed: int) -> Probe:
    """Compares the tasks on one batch, as it would be trained on, and leaves network and optimizer as they are.

    The lookahead is the inter-task affinity of Fifty et al., Efficiently identifying task groupings for multi-task
    learning (2021), equation 1, Z_{j -> i} = 1 - L_i(theta_s - step_j, theta_i) / L_i(theta_s, theta_i) on the batch
    that gave the gradients. Their step is that of gradient descent. Here it is the one that the optimizer would make of
    this gradient without momentum: for AdamW each coordinate is divided by the root of its running second moment, and
    where there is none yet (before the first step) by the gradient's own size.

    It takes a backward pass through the shared part and a forward pass per task.

    Args:
        model: in training; the losses are those of `fit`, so that a task's weight scales its gradient.
        effective: at the step that comes next.
        optimizer: of which the learning rates and second moments are used.
        seed: of the run, for dropout.
    """
    device = model.mean.device
    micro = [batch.to(device) for batch in effective.micro]
    counts, here = label_counts(model, effective.micro)
    forward = Forward(model, "fp32", seed)
    modes = [(module, module.training) for module in model.modules()]
    train_mode(model, frozen_norms(model))
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), keep_statistics(model):
            shared = [p for p in model.shared() if p.requires_grad]
            rows = _gradients(forward, micro, effective.step, counts, here, shared)
            before = forward.losses(micro, effective.step, counts)
            after = []
            for row in rows:
                moves = _moves(shared, row, optimizer)
                with _moved(shared, moves):
                    after.append(forward.losses(micro, effective.step, counts))
    finally:
        for module, training in modes:
            module.training = training
    flat = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    gramian = (flat @ flat.T).double().cpu()
    norms = gramian.diagonal().sqrt()
    found = torch.stack(after, dim=1).double().cpu()
    start = before.double().cpu()[:, None]
    return Probe(list(counts), gramian / (norms[:, None] * norms), 100 * (1 - found / start))


def _gradients(
    forward: Forward,
    micro: Sequence[Batch],
    step: int,
    counts: Mapping[str, Mapping[str, float]],
    here: Sequence[set[str]],
    shared: Sequence[nn.Parameter],
) -> list[list[Tensor]]:
    """Of every task's loss over the effective batch, by shared parameter."""
    rows = [[torch.zeros_like(p) for p in shared] for _ in counts]
    for position, batch in enumerate(micro):
        _, losses, _, _ = forward(batch, step, position, counts, here[position], {}, len(batch))
        for row, loss in zip(rows, losses, strict=True):
            if loss.requires_grad:
                found = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
                for total, part in zip(row, found, strict=True):
                    if part is not None:
                        total += part
    return rows


def _moves(
    parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor], optimizer: torch.optim.Optimizer
) -> list[Tensor]:
    """What the optimizer would subtract for these gradients, without momentum and weight decay."""
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    moves = []
    for parameter, gradient in zip(parameters, gradients, strict=True):
        group = groups.get(id(parameter))
        rate = 0.0 if group is None else group["lr"]
        if group is not None and "betas" in group:
            state = optimizer.state.get(parameter, {})
            if "exp_avg_sq" in state:
                second = state["exp_avg_sq"] / (1 - group["betas"][1] ** state["step"].to(gradient))
            else:
                second = gradient.square()
            gradient = gradient / (second.sqrt() + group["eps"])
        moves.append(rate * gradient)
    return moves


@contextmanager
def _moved(parameters: Sequence[nn.Parameter], moves: Sequence[Tensor]) -> Iterator[None]:
    before = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter, move in zip(parameters, moves, strict=True):
            parameter -= move
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)


def cka(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> float:
    """Linear centred kernel alignment of two representations of the same `n` inputs.

    1 where one is a rotation and a scaling of the other, about 0 where they have nothing in common. The Hilbert-Schmidt
    independence criterion is the unbiased one (Song et al. 2012, equation 5; Nguyen et al., Do wide and deep networks
    learn the same things?, 2021, equation 3): the biased one of Kornblith et al., Similarity of neural network
    representations revisited (2019), nears 1 where there are more channels than inputs. It can be below 0.

    Args:
        x, y: a row per input, at least 4 of them.

    Returns:
        nan where a representation is the same for all inputs.
    """
    kernels = [_kernel(z) for z in (x, y)]
    cross, own, other = (_hsic(kernels[a], kernels[b]) for a, b in ((0, 1), (0, 0), (1, 1)))
    return cross / math.sqrt(own * other) if own > 0 and other > 0 else math.nan


def _kernel(z: Float[Tensor, "n _"]) -> Float64[Tensor, "n n"]:
    """Inner products of the centred rows, without those of a row with itself."""
    z = z.double()
    z = z - z.mean(0)
    return (z @ z.T).fill_diagonal_(0.0)


def _hsic(k: Float64[Tensor, "n n"], m: Float64[Tensor, "n n"]) -> float:
    n = len(k)
    first = (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2))
    return float((first - 2 / (n - 2) * (k.sum(0) @ m.sum(0))) / (n * (n - 3)))


@torch.inference_mode()
def representation(model: MultiTaskModel, images: Iterable[Tensor], grid: int = 4) -> list[Float[Tensor, "n _"]]:
    """What the encoder makes of images: of every level, the means of `grid` x `grid` cells of each image.

    Args:
        images: batches of the network's input, float [n, c, h, w].

    Returns:
        By level, a row per cell, on the CPU.
    """
    training = model.training
    model.eval()
    found: list[list[Tensor]] = []
    for batch in images:
        levels = model.features(batch.to(model.mean.device))[1]
        pooled = [nn.functional.adaptive_avg_pool2d(level.float(), grid) for level in levels]
        found.append([level.permute(0, 2, 3, 1).flatten(0, 2).cpu() for level in pooled])
    model.train(training)
    return [torch.cat(level) for level in zip(*found, strict=True)]
