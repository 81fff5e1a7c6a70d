"""The part that the losses with a factor per class share: the factors, and what an average over pixels divides by."""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from segweave.losses.loss import Loss, labelled, per_image


class ClassWeighted(Loss):
    """A loss whose every pixel is multiplied by a factor of its true class; counts those factors.

    Args:
        ignore: target value that is not labelled.
        weight: factor per class, [C]; none negative. 1 for all without it.
    """

    weight: Tensor | None

    def __init__(self, ignore: int, weight: Float[Tensor, " C"] | None = None) -> None:
        super().__init__()
        self.ignore = ignore
        self.register_buffer("weight", weight)
        # Not a buffer, so that it stays on the CPU, where counting the targets of a batch does not wait for a GPU. One
        # more entry is for pixels without a label.
        self._masses = None if weight is None else torch.cat([weight, weight.new_zeros(1)])

    def mass(self, target: Integer[Tensor, " b *spatial"]) -> Float[Tensor, " b"]:
        """The factors of an image's labelled pixels added up."""
        if self._masses is None:
            return per_image(labelled(target, self.ignore))
        table = self._masses.to(target.device)
        index = target.long().where(labelled(target, self.ignore), len(table) - 1)
        return table.index_select(0, index.flatten()).view_as(index)[..., None].flatten(1).sum(1)
