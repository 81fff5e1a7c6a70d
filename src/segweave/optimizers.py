"""Parameter groups, optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from segweave.errors import ConfigError
from segweave.model import MultiTaskModel


def parameter_groups(
    model: MultiTaskModel,
    balancer: nn.Module | None,
    lr: float,
    weight_decay: float,
    backbone_lr_scale: float = 1.0,
    freeze: Sequence[str] = (),
) -> list[dict]:
    """Groups by part and by decay; `freeze` holds prefixes of parameter names, which stop requiring gradients.

    Biases, norms and a balancer's own weights are not decayed; the encoder's rate is multiplied.

    Raises:
        ConfigError: a prefix in `freeze` that no parameter has.
    """
    named = list(model.named_parameters())
    for prefix in freeze:
        chosen = [p for name, p in named if name.startswith(prefix)]
        if not chosen:
            raise ConfigError(f"train.freeze: no parameter starts with {prefix!r}; try 'encoder' or 'interaction'")
        for parameter in chosen:
            parameter.requires_grad_(False)
    groups = []
    for encoder in (True, False):
        for decay in (True, False):
            params = [
                p
                for name, p in named
                if p.requires_grad and name.startswith("encoder.") is encoder and (p.ndim >= 2) is decay
            ]
            rate = lr * backbone_lr_scale if encoder else lr
            if params:
                groups.append({"params": params, "lr": rate, "weight_decay": weight_decay if decay else 0.0})
    own = list(balancer.parameters()) if balancer is not None else []
    if own:
        groups.append({"params": own, "lr": lr, "weight_decay": 0.0})
    return groups


def build_optimizer(name: str, groups: list[dict], momentum: float = 0.9) -> torch.optim.Optimizer:
    """`adamw` or `sgd`. Raises ConfigError."""
    if name == "adamw":
        return torch.optim.AdamW(groups)
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=momentum)
    raise ConfigError(f"train.optimizer: found {name!r}; expected adamw or sgd")


class Schedule:
    """Factor on every group's learning rate as a function of the share of training done.

    Args:
        optimizer: its groups' present rates are the peaks.
        kind: `poly` (power 0.9), `cosine` or `constant`.
        warmup: steps over which the rate rises linearly from near 0.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, kind: str = "poly", warmup: int = 0) -> None:
        if kind not in ("poly", "cosine", "constant"):
            raise ConfigError(f"train.schedule: found {kind!r}; expected poly, cosine or constant")
        self.optimizer = optimizer
        self.kind = kind
        self.warmup = warmup
        self.peaks = [group["lr"] for group in optimizer.param_groups]

    def set(self, step: int, progress: float) -> float:
        """Sets the rates for `step` (from 0) at `progress` in [0, 1]; returns the last network group's rate."""
        left = min(max(1 - progress, 0.0), 1.0)
        factor = {"poly": left**0.9, "cosine": (1 + math.cos(math.pi * (1 - left))) / 2, "constant": 1.0}[self.kind]
        if step < self.warmup:
            factor *= (step + 1) / self.warmup
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        return self.optimizer.param_groups[-1]["lr"]
