"""A micro-batch through the network to the losses of its tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segweave.batch import Batch
from segweave.errors import ConfigError
from segweave.interactions.interaction import Features
from segweave.model import MultiTaskModel
from segweave.penalties import Penalties, keep_statistics
from segweave.seeds import seed_for


class Forward:
    """A micro-batch through the network to its losses; the same random numbers whenever it is repeated."""

    def __init__(self, model: MultiTaskModel, precision: str, seed: int) -> None:
        self.model = model
        self.penalties = Penalties(model)
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        self.seed = seed

    @contextmanager
    def _as_in_training(self, batch: Batch, step: int, position: int) -> Iterator[None]:
        torch.manual_seed(seed_for(self.seed, 2, step, *([position] if position else [])))
        lone = _lone_image(self.model) if len(batch) == 1 else nullcontext()
        with torch.autocast(batch.images.device.type, self.dtype, enabled=self.dtype is not None), lone:
            yield

    def __call__(
        self,
        batch: Batch,
        step: int,
        position: int,
        counts: Mapping[str, Mapping[str, float]],
        here: Set[str],
        totals: dict[str, Tensor],
        share: float,
    ) -> tuple[Features, list[Float[Tensor, ""]], Float[Tensor, ""], Mapping[str, Tensor]]:
        """Features, losses in the order of `counts`, the regulariser and its parts; adds to the logged `totals`.

        A loss needs a gradient where its task is `here`, with something labelled in this micro-batch.
        """
        with self._as_in_training(batch, step, position):
            features, levels = self.model.features(batch.images)
            height, width = batch.images.shape[-2:]
            outputs = self.model.outputs(features, height, width, self.penalties.rows(batch))
            losses = _losses(self.model, batch, self.penalties.labelled(batch, outputs), counts, totals)
            regulariser, parts = self.penalties(batch, features, levels, outputs, share)
        each = [loss if name in here else loss.detach() for name, loss in losses.items()]
        return features, each, regulariser, parts

    @torch.no_grad()
    def losses(
        self, micro: Sequence[Batch], step: int, counts: Mapping[str, Mapping[str, float]]
    ) -> Float[Tensor, " n"]:
        """alpha_i L_i of an effective batch by a forward pass of its own, which changes nothing."""
        total = micro[0].images.new_zeros(len(counts))
        with keep_statistics(self.model):
            for position, batch in enumerate(micro):
                with self._as_in_training(batch, step, position):
                    features, _ = self.model.features(batch.images)
                    rows = self.penalties.rows(batch)
                    height, width = batch.images.shape[-2:]
                    outputs = self.model.outputs(features, height, width, rows)
                    losses = _losses(self.model, batch, self.penalties.labelled(batch, outputs), counts, {})
                total = total + (torch.stack(list(losses.values())) if losses else 0.0)
        return total


def frozen_norms(model: nn.Module) -> list[nn.Module]:
    """Batch normalisations none of whose parameters is trained; their statistics are to stay as well."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    own = [list(norm.parameters(recurse=False)) for norm in norms]
    return [
        norm
        for norm, parameters in zip(norms, own, strict=True)
        if parameters and not any(p.requires_grad for p in parameters)
    ]


def train_mode(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Training mode, but for the `frozen_norms`."""
    model.train()
    for norm in frozen:
        norm.eval()


def label_counts(model: MultiTaskModel, micro: Sequence[Batch]) -> tuple[dict[str, dict[str, float]], list[set[str]]]:
    """Count of every loss term over the effective batch, for the tasks that have something labelled in it.

    The batches are still where the loader made them, so that reading the counts does not wait for a GPU.

    Returns:
        The counts, and the tasks that have something labelled in each micro-batch.
    """
    counts: dict[str, dict[str, float]] = {}
    here: list[set[str]] = [set() for _ in micro]
    for name, task in model.tasks.items():
        for batch, labelled in zip(micro, here, strict=True):
            if name in batch.targets:
                terms = counts.setdefault(name, {})
                for term, count in task.counts(batch.targets[name].value).items():
                    number = float(count.sum())
                    terms[term] = terms.get(term, 0.0) + number
                    if number > 0:
                        labelled.add(name)
    return {name: terms for name, terms in counts.items() if any(count > 0 for count in terms.values())}, here


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
