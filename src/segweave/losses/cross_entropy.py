"""Cross-entropy of a softmax, per pixel or per image (Bishop 2006, equation 4.108)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segweave.errors import ConfigError
from segweave.losses.class_mass import ClassWeighted
from segweave.losses.loss import full, labelled, per_image, pieces


class CrossEntropy(ClassWeighted):
    """Sum over labelled pixels of `-w[y] log softmax(output)[y]`, 0 or more; counts `w[y]`, or 1 without class weights.

    Outputs are logits [b, C, ...], targets class indices [b, ...] of any integer type: 0 to C - 1 or `ignore`. Sum
    divided by count over a batch equals `torch.nn.functional.cross_entropy` with its default mean, label smoothing
    included. C. M. Bishop, Pattern Recognition and Machine Learning (2006), equation 4.108; per pixel Long, Shelhamer
    & Darrell 2015, section 4.3.

    Online hard example mining sums only the ceil(ohem n) pixels of an image's n labelled ones that cost most, and
    counts ceil(ohem n) / n of the image's `w[y]`: what is selected is per image, how much of it is known from the
    target. The others have a gradient of 0. A. Shrivastava, A. Gupta & R. Girshick, Training region-based object
    detectors with online hard example mining (2016), section 4, with pixels as the examples.

    Args:
        ignore: target value that is not labelled.
        weight: factor per class, [C]; none negative.
        label_smoothing: share of the truth that is spread evenly over all classes, 0 to 1 (Szegedy et al. 2016,
            section 7).
        ohem: share of the labelled pixels that are kept, above 0 and at most 1; 1 keeps all.

    Raises:
        ConfigError: label_smoothing outside [0, 1], or ohem outside (0, 1].
    """

    def __init__(
        self,
        ignore: int,
        weight: Float[Tensor, " C"] | None = None,
        *,
        label_smoothing: float = 0.0,
        ohem: float = 1.0,
    ) -> None:
        super().__init__(ignore, weight)
        if not 0 <= label_smoothing <= 1:
            raise ConfigError(f"cross_entropy.label_smoothing: found {label_smoothing}; expected 0 to 1")
        if not 0 < ohem <= 1:
            raise ConfigError(f"cross_entropy.ohem: found {ohem}; expected a share above 0 and at most 1")
        self.label_smoothing = label_smoothing
        self.ohem = ohem

    def count(self, target: Integer[Tensor, " b *spatial"]) -> Float[Tensor, " b"]:
        mass = self.mass(target)
        if self.ohem == 1:
            return mass
        pixels = per_image(labelled(target, self.ignore))
        return mass * (self._kept(pixels) / pixels.clamp(min=1))

    def _kept(self, pixels: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        # 0.1 of 10 pixels is one pixel, although 0.1 is a little more than a tenth in floating point
        return (pixels.double() * self.ohem - 1e-6).ceil().to(pixels.dtype)

    def forward(
        self, output: Float[Tensor, "b C *spatial"], target: Integer[Tensor, " b *spatial"]
    ) -> Float[Tensor, " b"]:
        return torch.cat([self._sums(logits, classes) for logits, classes in pieces(output, target)])

    def _sums(
        self, output: Float[Tensor, "p C *spatial"], target: Integer[Tensor, " p *spatial"]
    ) -> Float[Tensor, " p"]:
        logits, classes = full(output), target.long()
        weight = None if self.weight is None else self.weight.to(logits)
        one = len(logits) == 1 and logits.device.type == "cpu" and self.ohem == 1
        # one sum saves the map of pixels; on CUDA this reduction adds in no fixed order
        pixels = nn.functional.cross_entropy(
            logits,
            classes,
            weight,
            ignore_index=self.ignore,
            reduction="sum" if one else "none",
            label_smoothing=self.label_smoothing,
        )
        if one:
            return pixels[None]
        pixels = pixels[..., None].flatten(1)
        if self.ohem < 1:
            known = labelled(target, self.ignore)[..., None].flatten(1)
            # unlabelled pixels cost nothing, and nothing sorts behind it
            hardest = pixels.where(known, -1).sort(1, descending=True).values
            ranks = torch.arange(hardest.shape[1], device=hardest.device)
            pixels = hardest.where(ranks < self._kept(per_image(known))[:, None], 0)
        return pixels.sum(1)
