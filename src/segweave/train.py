"""The one training loop. It knows tasks by name and no task kind."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from segweave.balancing.balancer import Balancer, Objective
from segweave.balancing.equal import Equal
from segweave.batch import Batch
from segweave.data.loader import Effective, seed_for
from segweave.errors import ConfigError, SegweaveError
from segweave.model import MultiTaskModel
from segweave.optimizers import Schedule
from segweave.penalties import Penalties

_MAX_SKIPPED = 10


@dataclass(frozen=True)
class Step:
    """What one optimizer step did; losses are alpha_i L_i, regularisers beta R, by name.

    A step with values that are not finite changed no weight and no statistic: `not_finite` names them, `ids` the images
    of the batch.
    """

    step: int
    epoch: int
    seconds: float
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

    def record(self) -> dict[str, Any]:
        """One line of `metrics.jsonl`."""
        line: dict[str, Any] = {"step": self.step, "epoch": self.epoch, "seconds": round(self.seconds, 6)}
        line["images"] = self.images
        line |= {f"loss/{name}": value for name, value in self.losses.items()}
        line |= {f"loss/{name}": value for name, value in self.terms.items()}
        line |= {f"weight/{name}": value for name, value in self.weights.items()}
        line |= {f"regularizer/{name}": value for name, value in self.regularizers.items()}
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
) -> Iterator[Step]:
    """Trains on every batch of a stream and yields after each optimizer step; stop iterating to stop training.

    A loss is the sum over the effective batch divided by its count, whatever the micro-batches.

    Args:
        model: on the device to train on.
        batches: effective batches from a `Loader`, or single batches.
        optimizer: over the model's parameters, and the balancer's where it has some.
        balancer: how the losses become one update; the plain sum by default.
        schedule: sets the learning rate before each step, at `progress(step)` in [0, 1].
        clip: largest norm of all gradients together.
        precision: `fp32`, `bf16` or `fp16` autocast.
        scaler: of the losses, for `fp16`; a new one by default. Its state belongs in a checkpoint.
        ema: averages the parameters after each step.
        seed: of dropout; drawn anew from (seed, step), so that a resumed run repeats.

    Raises:
        SegweaveError: the losses were not finite in 10 steps in a row, or the optimizer lacks parameters of the
            balancer.
    """
    device = model.mean.device
    balancer = balancer or Equal(list(model.tasks))
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    scaler.scale(torch.zeros((), device=device))  # makes its state, which `unscale_` expects
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    penalties = Penalties(model)
    private, shared = model.private(), model.shared()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    missing = {id(p) for p in balancer.parameters() if p.requires_grad} - {id(p) for p in parameters}
    if missing:
        raise ConfigError(
            f"fit: the optimizer lacks {len(missing)} parameters of the balancer, whose weights would never change; "
            f"pass it [*model.parameters(), *balancer.parameters()]"
        )
    buffers = list(model.buffers())
    frozen = [m for m in model.modules() if _is_frozen_norm(m)]
    skipped_in_a_row = 0
    started = time.perf_counter()
    for number, item in enumerate(batches):
        effective = Effective(number, 0, [item]) if isinstance(item, Batch) else item
        torch.manual_seed(seed_for(seed, 2, effective.step))
        lr = schedule.set(effective.step, progress(effective.step)) if schedule else optimizer.param_groups[-1]["lr"]
        model.train()
        for norm in frozen:
            norm.eval()
        optimizer.zero_grad(set_to_none=True)
        counts = _counts(model, effective.micro)
        micro = [batch.to(device) for batch in effective.micro]
        images = sum(len(batch) for batch in micro)
        # a label whose pixels are all ignored has a loss of exactly 0, which no method weighs
        seen = [name for name in model.tasks if any(name in batch.targets for batch in micro)]
        totals: dict[str, Tensor] = {f"loss:{name}": torch.zeros((), device=device) for name in seen}
        weights: Mapping[str, Tensor] = {}
        statistics = [buffer.clone() for buffer in buffers]
        for position, batch in enumerate(micro):
            lone = _lone_image(model) if len(batch) == 1 else nullcontext()
            with torch.autocast(device.type, dtype, enabled=dtype is not None), lone:
                features, levels = model.features(batch.images)
                height, width = batch.images.shape[-2:]
                outputs = model.outputs(features, height, width, penalties.rows(batch))
                losses = _losses(model, batch, penalties.labelled(batch, outputs), counts, totals)
                regulariser, parts = penalties(batch, features, levels, outputs, len(batch) / images)
            for name, value in parts.items():
                totals[f"regularizer:{name}"] = totals.get(f"regularizer:{name}", 0.0) + value
            objective = Objective(
                tuple(counts),
                torch.stack([losses[name] for name in counts]) if counts else torch.zeros(0, device=device),
                regulariser,
                features.common,
                shared,
                private,
                scaler.get_scale(),
                last=position == len(micro) - 1,
                between=model.interaction.between(),
            )
            weights = balancer.backward(objective).weights
        present = [p for p in parameters if p.grad is not None]
        if present:
            scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(present, clip) if clip else nn.utils.get_total_norm([p.grad for p in present])
        values = _read({**totals, "grad_norm": norm, **{f"weight:{k}": v for k, v in weights.items()}})
        bad = [name.partition(":")[2] or "gradient" for name, value in values.items() if not math.isfinite(value)]
        if not bad:
            if present:
                scaler.step(optimizer)
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
            raise SegweaveError(
                f"the loss was not finite in {_MAX_SKIPPED} steps in a row (step {effective.step}: {', '.join(bad)}; "
                f"images {', '.join(ids[:4])}); lower train.lr or set train.clip"
            )
        now = time.perf_counter()
        yield _step(effective, now - started, images, values, lr, bad, ids)
        started = time.perf_counter()


def _is_frozen_norm(module: nn.Module) -> bool:
    """Whether it is a batch normalisation none of whose parameters is trained; its statistics are to stay as well."""
    own = list(module.parameters(recurse=False))
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and bool(own) and not any(p.requires_grad for p in own)


@contextmanager
def _lone_image(model: nn.Module) -> Iterator[None]:
    """Batch normalisation that would see one value per channel uses its running statistics, as in evaluation.

    torch refuses to train it: squeeze-and-excitation parts normalise maps of 1 x 1, of a single image in a batch of one
    and at the end of an epoch.

    Raises:
        ConfigError: a normalisation without running statistics.
    """
    lone: set[nn.Module] = set()

    def before(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training and inputs[0].numel() == inputs[0].shape[1]:
            if module.running_mean is None:
                raise ConfigError(
                    f"train.batch_size: {name} normalises over the batch, and a batch of one image leaves it one value "
                    f"per channel; expected at least 2, and a number of images that leaves no single one over"
                )
            lone.add(module.eval())

    def after(module: nn.Module, *_: Any) -> None:
        if module in lone:
            lone.remove(module.train())

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            hooks += [module.register_forward_pre_hook(partial(before, name)), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _counts(model: MultiTaskModel, micro: Sequence[Batch]) -> dict[str, dict[str, float]]:
    """Count of every loss term over the effective batch, for the tasks that have something labelled in it.

    The batches are still where the loader made them, so that reading the counts does not wait for a GPU.
    """
    counts: dict[str, dict[str, float]] = {}
    for name, task in model.tasks.items():
        for batch in micro:
            if name in batch.targets:
                terms = counts.setdefault(name, {})
                for term, count in task.counts(batch.targets[name].value).items():
                    terms[term] = terms.get(term, 0.0) + float(count.sum())
    return {name: terms for name, terms in counts.items() if any(count > 0 for count in terms.values())}


def _losses(
    model: MultiTaskModel,
    batch: Batch,
    outputs: Mapping[str, Tensor],
    counts: Mapping[str, Mapping[str, float]],
    totals: dict[str, Tensor],
) -> dict[str, Tensor]:
    """alpha_i L_i of a micro-batch, divided by the whole batch's counts; adds to the `totals` that are logged."""
    losses = {}
    for name, terms in counts.items():
        task = model.tasks[name]
        loss = batch.images.new_zeros(())
        if name in outputs:
            for term, value in task.loss(outputs[name], batch.targets[name].value).items():
                part = value.sum.sum() * (task.weight / (terms[term] or 1.0))
                loss = loss + part
                key = f"term:{name}/{term}"
                totals[key] = totals.get(key, 0.0) + part.detach()
        losses[name] = loss
        totals[f"loss:{name}"] = totals.get(f"loss:{name}", 0.0) + loss.detach()
    return losses


def _read(values: Mapping[str, Tensor]) -> dict[str, float]:
    """One device-to-host copy for everything that is logged."""
    stacked = torch.stack([value.detach().float().reshape(()) for value in values.values()])
    return dict(zip(values, stacked.tolist(), strict=True))


def _step(
    effective: Effective,
    seconds: float,
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
