"""Scale-invariant logarithmic error of depth (Eigen, Puhrsch & Fergus 2014, equation 4)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from segweave.errors import ConfigError
from segweave.losses.loss import Loss, full, labelled_images


class ScaleInvariantLog(Loss):
    """Per image `mean(d^2) - variance_focus * mean(d)^2`, d = log output - log target over measured pixels; count 1.

    Outputs are metres [b, H, W] above 0, targets metres [b, H, W] with 0 where nothing is measured. 0 or more.
    D. Eigen, C. Puhrsch & R. Fergus, Depth map prediction from a single image using a multi-scale deep network (2014),
    equation 4.

    Args:
        variance_focus: 0 is the plain squared log error, 1 forgives any global scale; the paper trains with 0.5.

    Raises:
        ConfigError: variance_focus outside [0, 1].
    """

    def __init__(self, *, variance_focus: float = 0.5) -> None:
        super().__init__()
        if not 0 <= variance_focus <= 1:
            raise ConfigError(f"silog.variance_focus: found {variance_focus}; expected 0 to 1")
        self.variance_focus = variance_focus

    def count(self, target: Float[Tensor, "b H W"]) -> Float[Tensor, " b"]:
        return labelled_images(target > 0)

    def forward(self, output: Float[Tensor, "b H W"], target: Float[Tensor, "b H W"]) -> Float[Tensor, " b"]:
        prediction, target = full(output).flatten(1), target.flatten(1)
        measured = target > 0
        difference = prediction.where(measured, 1).log() - target.where(measured, 1).log()
        pixels = measured.sum(1).clamp(min=1)
        mean = difference.sum(1) / pixels
        # variance + (1 - focus) mean^2 is the same number without the cancellation of mean(d^2) - mean(d)^2
        variance = (difference - mean[:, None]).where(measured, 0).square().sum(1) / pixels
        return variance + (1 - self.variance_focus) * mean.square()
