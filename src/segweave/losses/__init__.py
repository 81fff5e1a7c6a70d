"""Losses by config name. Each is per image and not averaged; the training loop divides by the whole batch's count."""

from typing import TYPE_CHECKING

from segweave.catalogue import Catalogue

LOSSES = Catalogue(
    "loss",
    __name__,
    {
        "cross_entropy": "CrossEntropy",
        "iou": "SoftIoU",
        "dice": "Dice",
        "binary_cross_entropy": "BinaryCrossEntropy",
        "l1": "L1",
        "silog": "ScaleInvariantLog",
    },
)
__getattr__ = LOSSES.attribute

if TYPE_CHECKING:
    from segweave.losses.binary_cross_entropy import BinaryCrossEntropy as BinaryCrossEntropy
    from segweave.losses.cross_entropy import CrossEntropy as CrossEntropy
    from segweave.losses.dice import Dice as Dice
    from segweave.losses.iou import SoftIoU as SoftIoU
    from segweave.losses.l1 import L1 as L1
    from segweave.losses.silog import ScaleInvariantLog as ScaleInvariantLog
