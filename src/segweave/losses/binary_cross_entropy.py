"""Cross-entropy of independent sigmoids, for multi-label classification (Bishop 2006, equation 4.90)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from segweave.losses.loss import Loss, full, per_image


class BinaryCrossEntropy(Loss):
    """Sum over known labels of `-t log s - (1 - t) log(1 - s)`, s = sigmoid(output), 0 or more; counts those labels.

    Outputs are logits [b, C]; targets are floats [b, C]: 0, 1 (or between, for soft labels) or `ignore`. C. M. Bishop,
    Pattern Recognition and Machine Learning (2006), equation 4.90, once per class.

    Args:
        ignore: target value of a label that is not known.
    """

    def __init__(self, ignore: float = -1) -> None:
        super().__init__()
        self.ignore = ignore

    def count(self, target: Float[Tensor, "b C"]) -> Float[Tensor, " b"]:
        return per_image(target != self.ignore)

    def forward(self, output: Float[Tensor, "b C"], target: Float[Tensor, "b C"]) -> Float[Tensor, " b"]:
        known = target != self.ignore
        logits = full(output).where(known, 0)
        entries = nn.functional.binary_cross_entropy_with_logits(
            logits, target.where(known, 0).to(logits.dtype), reduction="none"
        )
        return entries.where(known, 0).sum(1)
