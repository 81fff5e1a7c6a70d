"""Cross-entropy of independent sigmoids, for labels and for classes one against the rest (Bishop 2006, eq. 4.90)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segweave.losses.loss import Loss, full, labelled, per_image, pieces


class BCE(Loss):
    """Sum over known entries of `-t log s - (1 - t) log(1 - s)`, s = sigmoid(output), 0 or more; counts those entries.

    The type of the target says which of two forms it is. Floats [b, C] of the logits' own shape: 0, 1 (or between, for
    soft labels) or `ignore`. Class indices [b, ...] of any integer type, 0 to C - 1 or `ignore`, under logits
    [b, C, ...]: every class is told from the rest, t = 1 for the true one, and a pixel costs the mean over the classes
    and counts 1. With `first` 1 the logits are taken as `output[:, 1:] - output[:, :1]`, which of the two outputs
    (0, x) of a binary task is x: its one binary cross-entropy, not that of its background once more. C. M. Bishop,
    Pattern Recognition and Machine Learning (2006), equation 4.90, once per class.

    Args:
        ignore: target value of what is not known.
        first: classes before it, 0 or 1, are the background that logits are relative to.
    """

    def __init__(self, ignore: int, first: int = 0) -> None:
        super().__init__()
        self.ignore = ignore
        self.first = first

    def count(self, target: Tensor) -> Float[Tensor, " b"]:
        return per_image(target != self.ignore if target.is_floating_point() else labelled(target, self.ignore))

    def forward(self, output: Float[Tensor, "b C *spatial"], target: Tensor) -> Float[Tensor, " b"]:
        if target.is_floating_point():
            return self._sums(output, target, target != self.ignore)
        return torch.cat([self._means(logits, classes) for logits, classes in pieces(output, target)])

    def _means(
        self, output: Float[Tensor, "p C *spatial"], target: Integer[Tensor, " p *spatial"]
    ) -> Float[Tensor, " p"]:
        logits = full(output)
        if self.first:
            logits = logits[:, self.first :] - logits[:, : self.first]
        classes = torch.arange(self.first, output.shape[1], device=output.device)
        truth = target[:, None] == classes.view(-1, *[1] * (target.ndim - 1))
        known = labelled(target, self.ignore)[:, None].expand_as(truth)
        return self._sums(logits, truth.to(logits.dtype), known) / len(classes)

    def _sums(self, output: Tensor, target: Tensor, known: Tensor) -> Float[Tensor, " b"]:
        logits = full(output).where(known, 0)
        entries = nn.functional.binary_cross_entropy_with_logits(
            logits, target.where(known, 0).to(logits.dtype), reduction="none"
        )
        return entries.where(known, 0).flatten(1).sum(1)
