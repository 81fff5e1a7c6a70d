"""The `train` section of a config: how long, how fast and how exactly to train."""

from __future__ import annotations

from typing import Literal

from segweave.errors import ConfigError


class Plan:
    """How to train.

    Args:
        steps, epochs, minutes: when to stop; one of them, 60 epochs by default.
        batch_size: images that go through the network together.
        accumulate: such batches per optimizer step; losses are averaged over all of them.
        lr: of the decoders and heads at its peak.
        optimizer: `adamw` or `sgd`.
        weight_decay: the optimizer's own; biases and norms are not decayed.
        backbone_lr_scale: factor on the encoder's rate.
        freeze: prefixes of parameter names that are not trained, such as `encoder`.
        schedule: `poly`, `cosine` or `constant`, after `warmup` steps.
        warmup: steps over which the rate rises linearly to its peak.
        clip: largest gradient norm.
        ema: decay of an exponential average of the weights, which is then what is validated and kept.
        precision: `fp32`, or autocast to `bf16` or `fp16`.
        compile: run the parts of the network through `torch.compile`: the first steps take a minute or more longer, and
            a CPU needs a C++ compiler.
        best: `task/metric` that chooses the best weights, or `mean_relative_gain` over all tasks' headline values
            relative to the best so far.
        patience: validations without a better one before training stops early.
        validate_every: epochs between validations.
        workers: processes that read data; by default one where there is more than one core.
        seed: of everything.
        report: write `report.html`, `results.png` and `results.csv` at the end.
        track: where the numbers of the log go as well: `tensorboard`, `mlflow` or `wandb`, or several of them.

    Raises:
        ConfigError: values that make no sense together.
    """

    def __init__(
        self,
        *,
        steps: int | None = None,
        epochs: int | None = None,
        minutes: float | None = None,
        batch_size: int = 8,
        accumulate: int = 1,
        lr: float = 3e-4,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        weight_decay: float = 0.01,
        backbone_lr_scale: float = 1.0,
        freeze: list[str] | None = None,
        schedule: Literal["poly", "cosine", "constant"] = "poly",
        warmup: int = 0,
        clip: float | None = None,
        ema: float | None = None,
        precision: Literal["fp32", "bf16", "fp16"] = "fp32",
        compile: bool = False,
        best: str = "mean_relative_gain",
        patience: int | None = None,
        validate_every: int = 1,
        workers: int | None = None,
        seed: int = 0,
        report: bool = True,
        track: Literal["tensorboard", "mlflow", "wandb"]
        | list[Literal["tensorboard", "mlflow", "wandb"]]
        | None = None,
    ) -> None:
        if sum(limit is not None for limit in (steps, epochs, minutes)) > 1:
            raise ConfigError("train: expected one of steps, epochs and minutes; found several")
        least = {
            "steps": (steps, 1),
            "epochs": (epochs, 1),
            "batch_size": (batch_size, 1),
            "accumulate": (accumulate, 1),
        }
        least |= {"validate_every": (validate_every, 1), "patience": (patience, 1), "warmup": (warmup, 0)}
        least |= {
            "workers": (workers, 0),
            "weight_decay": (weight_decay, 0),
            "backbone_lr_scale": (backbone_lr_scale, 0),
        }
        for key, (value, low) in least.items():
            if value is not None and not value >= low:
                raise ConfigError(f"train.{key}: found {value}; expected at least {low}")
        for key, value in (("minutes", minutes), ("clip", clip)):
            if value is not None and not value > 0:
                raise ConfigError(f"train.{key}: found {value}; expected a number above 0")
        if ema is not None and not 0 <= ema < 1:
            raise ConfigError(f"train.ema: found {ema}; expected 0 or more and below 1")
        if not lr > 0:
            raise ConfigError(f"train.lr: found {lr}; expected a number above 0")
        self.steps, self.minutes = steps, minutes
        self.epochs = 60 if steps is None and epochs is None and minutes is None else epochs
        self.batch_size, self.accumulate = batch_size, accumulate
        self.lr, self.optimizer, self.weight_decay = lr, optimizer, weight_decay
        self.backbone_lr_scale, self.freeze = backbone_lr_scale, freeze or []
        self.schedule, self.warmup, self.clip = schedule, warmup, clip
        self.ema, self.precision, self.compile, self.best = ema, precision, compile, best
        self.patience, self.validate_every = patience, validate_every
        self.workers, self.seed, self.report = workers, seed, report
        self.track = [track] if isinstance(track, str) else track or []

    def total(self, steps_per_epoch: int) -> int | None:
        """Optimizer steps in all; None where a time decides."""
        if self.steps is not None:
            return self.steps
        return None if self.epochs is None else self.epochs * steps_per_epoch
