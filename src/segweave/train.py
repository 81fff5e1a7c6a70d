"""The one training loop. It knows tasks by name and no task kind."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from segweave.balancing.balancer import Balance, Balancer, Objective, cosines
from segweave.balancing.equal import Equal
from segweave.balancing.method import Comparing
from segweave.batch import Batch
from segweave.data.loader import Effective
from segweave.errors import ConfigError, DivergedError
from segweave.forward import Forward, frozen_norms, label_counts, train_mode
from segweave.model import MultiTaskModel
from segweave.optimizers import Schedule
from segweave.peak import Peak

_MAX_SKIPPED = 10
WEIGHED = 2
"""Steps whose memory is measured: what an optimizer keeps is made in the first and counts from the second on."""


@dataclass(frozen=True)
class Step:
    """What one optimizer step did; losses are alpha_i L_i, regularisers beta R, by name.

    Of `seconds`, `waited` went by before the loader had the batch.

    Cosines between the gradients of two tasks, and the share of the images labelled for either that are labelled for
    both, are by `a|b`, of methods that look at gradients; a cosine that means nothing is NaN. `space` is where the
    gradients were compared, as in `Balance`; None where they were not.

    A step with values that are not finite changed no weight and no statistic: `not_finite` names them, `ids` the images
    of the batch.
    """

    step: int
    epoch: int
    seconds: float
    waited: float
    images: int
    losses: Mapping[str, float]
    terms: Mapping[str, float]
    weights: Mapping[str, float]
    regularizers: Mapping[str, float]
    total: float
    lr: float
    grad_norm: float
    not_finite: Sequence[str] = ()
    ids: Sequence[str] = ()
    cosines: Mapping[str, float] = field(default_factory=dict)
    overlaps: Mapping[str, float] = field(default_factory=dict)
    space: str | None = None

    def record(self) -> dict[str, Any]:
        """One line of `metrics.jsonl`."""
        line: dict[str, Any] = {"step": self.step, "epoch": self.epoch, "seconds": round(self.seconds, 6)}
        line |= {"waited": round(self.waited, 6), "images": self.images}
        line |= {f"loss/{name}": value for name, value in self.losses.items()}
        line |= {f"loss/{name}": value for name, value in self.terms.items()}
        line |= {f"weight/{name}": value for name, value in self.weights.items()}
        line |= {f"regularizer/{name}": value for name, value in self.regularizers.items()}
        line |= {f"cosine/{pair}": value for pair, value in self.cosines.items()}
        line |= {f"overlap/{pair}": value for pair, value in self.overlaps.items()}
        line |= {"space": self.space} if self.space else {}
        line |= {"total": self.total, "lr": self.lr, "grad_norm": self.grad_norm}
        if self.not_finite:
            line |= {"skipped": True, "not_finite": list(self.not_finite), "ids": list(self.ids)}
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in line.items()
        }


def fit(
    model: MultiTaskModel,
    batches: Iterable[Effective | Batch],
    *,
    optimizer: torch.optim.Optimizer,
    balancer: Balancer | None = None,
    schedule: Schedule | None = None,
    progress: Callable[[int], float] = lambda _: 0.0,
    clip: float | None = None,
    precision: str = "fp32",
    scaler: torch.amp.GradScaler | None = None,
    ema: torch.optim.swa_utils.AveragedModel | None = None,
    seed: int = 0,
    peak: Peak | None = None,
) -> Iterator[Step]:
    """Trains on every batch of a stream and yields after each optimizer step; stop iterating to stop training.

    A loss is the sum over the effective batch divided by its count, whatever the micro-batches.

    Args:
        model: on the device to train on.
        batches: effective batches from a `Loader`, or single batches, which are all of the first epoch.
        optimizer: over the model's parameters, and the balancer's where it has some.
        balancer: how the losses become one update; the plain sum by default.
        schedule: sets the learning rate before each step, at `progress(step)` in [0, 1].
        clip: largest norm of all gradients together.
        precision: `fp32`, `bf16` or `fp16` autocast.
        scaler: of the losses, for `fp16`; a new one by default. Its state belongs in a checkpoint.
        ema: averages the parameters after each step.
        seed: of dropout; drawn anew from (seed, step, micro-batch), so that a resumed run repeats.
        peak: measures the memory of steps 0 and 1, from the forward pass to the update.

    Raises:
        DivergedError: the losses were not finite in 10 steps in a row.
        ConfigError: the optimizer lacks parameters of the balancer.
    """
    device = model.mean.device
    balancer = balancer or Equal(list(model.tasks))
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    one = torch.ones((), device=device)
    scaler.scale(one)  # makes its state, which `unscale_` expects
    forward = Forward(model, precision, seed)
    private, shared = model.private(), model.shared()
    closing = model.closing() if isinstance(balancer, Comparing) and balancer.space == "last" else []
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    missing = {id(p) for p in balancer.parameters() if p.requires_grad} - {id(p) for p in parameters}
    if missing:
        raise ConfigError(
            f"fit: the optimizer lacks {len(missing)} parameters of the balancer, whose weights would never change; "
            f"pass it [*model.parameters(), *balancer.parameters()]"
        )
    buffers = list(model.buffers())
    frozen = frozen_norms(model)
    skipped_in_a_row = 0
    started = time.perf_counter()
    for number, item in enumerate(batches):
        waited = time.perf_counter() - started
        effective = Effective(number, 0, [item]) if isinstance(item, Batch) else item
        lr = schedule.set(effective.step, progress(effective.step)) if schedule else optimizer.param_groups[-1]["lr"]
        train_mode(model, frozen)
        optimizer.zero_grad(set_to_none=True)
        counts, here = label_counts(model, effective.micro)
        micro = [batch.to(device) for batch in effective.micro]
        images = sum(len(batch) for batch in micro)
        # a label whose pixels are all ignored has a loss of exactly 0, which no method weighs
        seen = [name for name in model.tasks if any(name in batch.targets for batch in micro)]
        with peak if peak is not None and effective.step < WEIGHED else nullcontext():
            totals: dict[str, Tensor] = {f"loss:{name}": torch.zeros((), device=device) for name in seen}
            statistics = [buffer.clone() for buffer in buffers]
            rows = _rows(effective.micro)
            again = partial(forward.losses, micro, effective.step, counts)
            whole = again() if balancer.ahead and len(micro) > 1 else None
            # on the device: as a number it would be one more copy from there in every step
            scale = scaler.scale(one) if scaler.is_enabled() else 1.0
            balances = []
            for position, batch in enumerate(micro):
                features, losses, regulariser, parts = forward(
                    batch, effective.step, position, counts, here[position], totals, len(batch) / images
                )
                for name, value in parts.items():
                    totals[f"regularizer:{name}"] = totals.get(f"regularizer:{name}", 0.0) + value
                objective = Objective(
                    tuple(counts),
                    torch.stack(losses) if losses else torch.zeros(0, device=device),
                    regulariser,
                    features.common,
                    shared,
                    private,
                    scale,
                    last=position == len(micro) - 1,
                    between=model.interaction.between(),
                    rows=rows,
                    closing=closing,
                    whole=whole,
                    epoch=effective.epoch,
                    each=losses,
                )
                balances.append(balancer.backward(objective))
            compared = _compared(balances)
            present = [p for p in parameters if p.grad is not None]
            if present:
                scaler.unscale_(optimizer)
            norm = (
                nn.utils.clip_grad_norm_(present, clip) if clip else nn.utils.get_total_norm([p.grad for p in present])
            )
            values, angles = _read({**totals, "grad_norm": norm, **_weights(balances)}, compared)
            bad = [name.partition(":")[2] or "gradient" for name, value in values.items() if not math.isfinite(value)]
            if not bad:
                if present:
                    # whether all is finite is known already, and `scaler.step` would ask the device again
                    optimizer.step()
                    balancer.after(tuple(counts), again)
                if ema is not None and micro:
                    ema.update_parameters(model)
            else:
                balancer.rollback()
                with torch.no_grad():  # or a value that is not finite would stay in the norms' running statistics
                    for buffer, before in zip(buffers, statistics, strict=True):
                        buffer.copy_(before)
            if present:
                scaler.update()
        skipped_in_a_row = skipped_in_a_row + 1 if bad else 0
        ids = [id for batch in micro for id in batch.ids] if bad else []
        if skipped_in_a_row >= _MAX_SKIPPED:
            raise DivergedError(
                f"the loss was not finite in {_MAX_SKIPPED} steps in a row (step {effective.step}: {', '.join(bad)}; "
                f"images {', '.join(ids[:4])}); lower train.lr or set train.clip"
            )
        now = time.perf_counter()
        step = _step(effective, now - started, waited, images, values, lr, bad, ids)
        if compared is not None and compared.overlap is not None:
            pairs = list(combinations(range(len(counts)), 2))
            names = ["|".join(tuple(counts)[place] for place in pair) for pair in pairs]
            step = replace(
                step,
                cosines=dict(zip(names, (angles[a][b] for a, b in pairs), strict=True)),
                overlaps=dict(zip(names, (float(compared.overlap[pair]) for pair in pairs), strict=True)),
                space=compared.space,
            )
        yield step
        started = time.perf_counter()


def _rows(micro: Sequence[Batch]) -> dict[str, Tensor]:
    """By task, which images of the effective batch are labelled; where the loader made them, on the CPU."""
    rows: dict[str, list[Tensor]] = {}
    start = 0
    for batch in micro:
        for name, labelled in batch.targets.items():
            rows.setdefault(name, []).append(labelled.rows + start)
        start += len(batch)
    return {name: torch.cat(parts) for name, parts in rows.items()}


def _weights(balances: Sequence[Balance]) -> dict[str, Tensor]:
    """By task, the mean over the micro-batches that weighed it."""
    given: dict[str, list[Tensor]] = {}
    for balance in balances:
        for name, weight in balance.weights.items():
            given.setdefault(name, []).append(weight)
    return {
        f"weight:{name}": values[0] if len(values) == 1 else torch.stack(values).mean()
        for name, values in given.items()
    }


def _compared(balances: Sequence[Balance]) -> Balance | None:
    """The sum of the micro-batches' Gramians: at the features exactly that of the effective batch, at the last layer
    without the products of one micro-batch with another."""
    made = [balance.gramian for balance in balances if balance.gramian is not None]
    return replace(balances[-1], gramian=torch.stack(made).sum(0)) if made else None


def _read(values: Mapping[str, Tensor], compared: Balance | None) -> tuple[dict[str, float], list[list[float]]]:
    """One device-to-host copy for everything that is logged: the values by name, and the cosines."""
    scalars = torch.stack([value.detach().float().reshape(()) for value in values.values()])
    angles = cosines(compared) if compared is not None else scalars.new_zeros((0, 0))
    numbers = torch.cat([scalars, angles.float().flatten()]).tolist()
    n = len(angles)
    matrix = [numbers[len(values) + n * row :][:n] for row in range(n)]
    return dict(zip(values, numbers[: len(values)], strict=True)), matrix


def _step(
    effective: Effective,
    seconds: float,
    waited: float,
    images: int,
    values: Mapping[str, float],
    lr: float,
    bad: Sequence[str],
    ids: Sequence[str],
) -> Step:
    def group(kind: str) -> dict[str, float]:
        return {name.partition(":")[2]: value for name, value in values.items() if name.startswith(f"{kind}:")}

    losses, weights, regularizers = group("loss"), group("weight"), group("regularizer")
    total = sum(weights.get(name, 0.0) * value for name, value in losses.items()) + sum(regularizers.values())
    return Step(
        effective.step,
        effective.epoch,
        seconds,
        waited,
        images,
        losses,
        group("term"),
        weights,
        regularizers,
        total,
        lr,
        values["grad_norm"],
        bad,
        ids,
    )
