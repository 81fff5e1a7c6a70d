"""Cross-entropy of a softmax, per pixel or per image (Bishop 2006, equation 4.108)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segweave.losses.loss import Loss, full, labelled, per_image, pieces


class CrossEntropy(Loss):
    """Sum over labelled pixels of `-w[y] log softmax(output)[y]`, 0 or more; counts `w[y]`, or 1 without class weights.

    Outputs are logits [b, C, ...], targets class indices [b, ...] of any integer type: 0 to C - 1 or `ignore`. Sum
    divided by count over a batch equals `torch.nn.functional.cross_entropy` with its default mean. C. M. Bishop,
    Pattern Recognition and Machine Learning (2006), equation 4.108; per pixel Long, Shelhamer & Darrell 2015,
    section 4.3.

    Args:
        ignore: target value that is not labelled.
        weight: factor per class, [C]; none negative.
    """

    weight: Tensor | None

    def __init__(self, ignore: int, weight: Float[Tensor, " C"] | None = None) -> None:
        super().__init__()
        self.ignore = ignore
        self.register_buffer("weight", weight)
        # Not a buffer, so that it stays on the CPU, where counting the targets of a batch does not wait for a GPU. One
        # more entry is for pixels without a label.
        self._masses = None if weight is None else torch.cat([weight, weight.new_zeros(1)])

    def count(self, target: Integer[Tensor, " b *spatial"]) -> Float[Tensor, " b"]:
        if self._masses is None:
            return per_image(labelled(target, self.ignore))
        table = self._masses.to(target.device)
        index = target.long().where(labelled(target, self.ignore), len(table) - 1)
        return table.index_select(0, index.flatten()).view_as(index)[..., None].flatten(1).sum(1)

    def forward(
        self, output: Float[Tensor, "b C *spatial"], target: Integer[Tensor, " b *spatial"]
    ) -> Float[Tensor, " b"]:
        return torch.cat([self._sums(logits, classes) for logits, classes in pieces(output, target)])

    def _sums(
        self, output: Float[Tensor, "p C *spatial"], target: Integer[Tensor, " p *spatial"]
    ) -> Float[Tensor, " p"]:
        logits, classes = full(output), target.long()
        weight = None if self.weight is None else self.weight.to(logits)
        if len(logits) == 1 and logits.device.type == "cpu":
            # saves the map of pixels; on CUDA this reduction adds in no fixed order
            total = nn.functional.cross_entropy(logits, classes, weight, ignore_index=self.ignore, reduction="sum")
            return total[None]
        pixels = nn.functional.cross_entropy(logits, classes, weight, ignore_index=self.ignore, reduction="none")
        return pixels[..., None].flatten(1).sum(1)
