"""Focal loss: cross-entropy that fades where the network is already sure (Lin et al. 2017, equation 5)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segweave.errors import ConfigError
from segweave.losses.class_mass import ClassWeighted
from segweave.losses.loss import full, labelled, per_image, pieces


class Focal(ClassWeighted):
    """Sum over labelled entries of `-a (1 - p_t)^gamma log p_t`, p_t the probability of the truth; 0 or more.

    The type of the target says which of two forms it is. Class indices [b, ...], 0 to C - 1 or `ignore`, under logits
    [b, C, ...] take a softmax, and `a` is the class's `weight`; counts these weights, so that gamma 0 is
    `cross_entropy`. Floats of the logits' own shape, 0, 1 or `ignore`, take a sigmoid each, and `a` is alpha for 1
    and 1 - alpha for 0; counts the known entries. T.-Y. Lin et al., Focal loss for dense object detection (2017),
    equation 5.

    Args:
        ignore: target value that is not labelled.
        weight: factor per class of the softmax form, [C]; none negative.
        gamma: how fast the sure ones fade, 0 or more; 0 is cross-entropy.
        alpha: share of the positives in the sigmoid form, 0 to 1; 0.25 unless given. A softmax has class weights.

    Raises:
        ConfigError: gamma below 0, alpha outside [0, 1], or an alpha with class indices.
    """

    def __init__(
        self,
        ignore: int,
        weight: Float[Tensor, " C"] | None = None,
        *,
        gamma: float = 2.0,
        alpha: float | None = None,
    ) -> None:
        super().__init__(ignore, weight)
        if not gamma >= 0:
            raise ConfigError(f"focal.gamma: found {gamma}; expected 0 or more")
        if alpha is not None and not 0 <= alpha <= 1:
            raise ConfigError(f"focal.alpha: found {alpha}; expected 0 to 1")
        self.gamma = gamma
        self.alpha = alpha

    def count(self, target: Tensor) -> Float[Tensor, " b"]:
        if target.is_floating_point():
            return per_image(target != self.ignore)
        if self.alpha is not None:
            raise ConfigError(
                f"focal.alpha: found {self.alpha} for one class each; it weighs labels that are 0 or 1, expected "
                f"class_weights here"
            )
        return self.mass(target)

    def forward(self, output: Float[Tensor, "b C *spatial"], target: Tensor) -> Float[Tensor, " b"]:
        if target.is_floating_point():
            known = target != self.ignore
            alpha = 0.25 if self.alpha is None else self.alpha
            entries = sigmoid_focal(output.where(known, 0), target.where(known, 0), alpha, self.gamma)
            return entries.where(known, 0).flatten(1).sum(1)
        return torch.cat([self._sums(logits, classes) for logits, classes in pieces(output, target)])

    def _sums(
        self, output: Float[Tensor, "p C *spatial"], target: Integer[Tensor, " p *spatial"]
    ) -> Float[Tensor, " p"]:
        logits, classes = full(output), target.long()
        cost = nn.functional.cross_entropy(logits, classes, ignore_index=self.ignore, reduction="none")
        # 0^(gamma - 1) is infinite for gamma below 1, and infinite times 0 is NaN
        doubt = -torch.expm1(-cost)
        cost = cost * doubt.clamp(min=torch.finfo(doubt.dtype).tiny).pow(self.gamma)
        if self.weight is not None:
            index = classes.where(labelled(target, self.ignore), 0)
            cost = cost * self.weight.to(cost).index_select(0, index.flatten()).view_as(cost)
        return cost[..., None].flatten(1).sum(1)


def sigmoid_focal(
    logits: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], alpha: float, gamma: float
) -> Float[Tensor, "*shape"]:
    """`-a_t (1 - p_t)^gamma log p_t` of every entry, at least float32; targets are 0 or 1 (Lin et al., equation 5)."""
    towards = full(logits) * (2 * target - 1)
    # both powers and logarithms of a sigmoid as softplus: nothing overflows and no probability is rounded to 0 or 1
    cost = nn.functional.softplus(-towards) * torch.exp(-gamma * nn.functional.softplus(towards))
    return cost * (alpha * target + (1 - alpha) * (1 - target))
