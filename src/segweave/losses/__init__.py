"""Losses by config name. Each is per image and not averaged; the training loop divides by the whole batch's count."""

from typing import TYPE_CHECKING

from segweave.catalogue import Catalogue

LOSSES = Catalogue(
    "loss",
    __name__,
    {
        "cross_entropy": "CrossEntropy",
        "focal": "Focal",
        "bce": "BCE",
        "balanced_bce": "BalancedBCE",
        "iou": "SoftIoU",
        "dice": "Dice",
        "tversky": "Tversky",
        "lovasz": "LovaszSoftmax",
        "boundary": "Boundary",
        "giou": "GIoU",
        "centerness": "Centerness",
        "l1": "L1",
        "silog": "ScaleInvariantLog",
        "berhu": "BerHu",
        "gradient_matching": "GradientMatching",
        "cosine": "Cosine",
    },
)
__getattr__ = LOSSES.attribute

if TYPE_CHECKING:
    from segweave.losses.balanced_bce import BalancedBCE as BalancedBCE
    from segweave.losses.bce import BCE as BCE
    from segweave.losses.berhu import BerHu as BerHu
    from segweave.losses.boundary import Boundary as Boundary
    from segweave.losses.centerness import Centerness as Centerness
    from segweave.losses.cosine import Cosine as Cosine
    from segweave.losses.cross_entropy import CrossEntropy as CrossEntropy
    from segweave.losses.dice import Dice as Dice
    from segweave.losses.focal import Focal as Focal
    from segweave.losses.giou import GIoU as GIoU
    from segweave.losses.gradient_matching import GradientMatching as GradientMatching
    from segweave.losses.iou import SoftIoU as SoftIoU
    from segweave.losses.l1 import L1 as L1
    from segweave.losses.lovasz import LovaszSoftmax as LovaszSoftmax
    from segweave.losses.silog import ScaleInvariantLog as ScaleInvariantLog
    from segweave.losses.tversky import Tversky as Tversky
