"""Gradient matching of depth over several scales: edges where they are, flat where it is (Li & Snavely 2018, eq. 4)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from segweave.errors import ConfigError
from segweave.losses.loss import Loss, full, labelled_images


class GradientMatching(Loss):
    """Per image `sum_k (sum |d_x R_k| + |d_y R_k|) / n_k`, R the difference of log depths, 0 or more; count 1.

    Outputs are metres [b, H, W] above 0, targets metres [b, H, W] with 0 where nothing is measured. R_k is R at every
    2^k-th pixel, n_k how many of these are measured, and d_x, d_y the differences of neighbours that are both measured.
    A global scale costs nothing, so it belongs beside a loss such as `l1`. Z. Li & N. Snavely, MegaDepth (2018),
    equation 4; R. Ranftl et al., Towards robust monocular depth estimation (2020), equation 11.

    Args:
        scales: how many, 1 or more; the paper takes 4.

    Raises:
        ConfigError: scales below 1.
    """

    def __init__(self, *, scales: int = 4) -> None:
        super().__init__()
        if scales < 1:
            raise ConfigError(f"gradient_matching.scales: found {scales}; expected 1 or more")
        self.scales = scales

    def count(self, target: Float[Tensor, "b H W"]) -> Float[Tensor, " b"]:
        return labelled_images(target > 0)

    def forward(self, output: Float[Tensor, "b H W"], target: Float[Tensor, "b H W"]) -> Float[Tensor, " b"]:
        measured = target > 0
        difference = full(output).where(measured, 1).log() - target.where(measured, 1).log()
        total = difference.new_zeros(len(difference))
        for step in (2**k for k in range(self.scales)):
            coarse, there = difference[:, ::step, ::step], measured[:, ::step, ::step]
            across = coarse.diff(dim=2).where(there[:, :, 1:] & there[:, :, :-1], 0)
            down = coarse.diff(dim=1).where(there[:, 1:] & there[:, :-1], 0)
            slopes = across.abs().flatten(1).sum(1) + down.abs().flatten(1).sum(1)
            total = total + slopes / there.flatten(1).sum(1).clamp(min=1)
        return total
