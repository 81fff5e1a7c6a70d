"""Cross-entropy of a softmax, per pixel or per image."""

from __future__ import annotations

from jaxtyping import Float, Integer
from torch import Tensor, nn

from segweave.losses.loss import Loss, full


class CrossEntropy(Loss):
    """Sum over labelled pixels of `-w[y] log softmax(output)[y]`; counts `w[y]`, or 1 without class weights.

    Outputs are logits [b, C, ...], targets class indices [b, ...] of any integer type: 0 to C - 1 or `ignore`. Sum
    divided by count over a batch equals `torch.nn.functional.cross_entropy` with its default mean.

    Args:
        ignore: target value that is not labelled.
        weight: factor per class, [C].
    """

    weight: Tensor | None

    def __init__(self, ignore: int, weight: Float[Tensor, " C"] | None = None) -> None:
        super().__init__()
        self.ignore = ignore
        self.register_buffer("weight", weight)

    def count(self, target: Integer[Tensor, " b *spatial"]) -> Float[Tensor, " b"]:
        # long() first: a uint8 target compared with -1 would be compared with 255
        classes = target.long()[..., None].flatten(1)
        labelled = classes != self.ignore
        if self.weight is None:
            return labelled.sum(1).float()
        return self.weight[classes.where(labelled, 0)].where(labelled, 0).sum(1)

    def forward(
        self, output: Float[Tensor, "b C *spatial"], target: Integer[Tensor, " b *spatial"]
    ) -> Float[Tensor, " b"]:
        logits = full(output)
        weight = None if self.weight is None else self.weight.to(logits)
        pixels = nn.functional.cross_entropy(logits, target.long(), weight, ignore_index=self.ignore, reduction="none")
        return pixels[..., None].flatten(1).sum(1)
