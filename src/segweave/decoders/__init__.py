"""Decoders by config name: an encoder's pyramid to one map."""

from typing import TYPE_CHECKING

from segweave.catalogue import Catalogue

DECODERS = Catalogue(
    "decoder",
    __name__,
    {
        "deeplabv3plus": "DeepLabV3Plus",
        "dpt": "DPT",
        "fpn": "FPN",
        "segformer": "SegFormer",
        "unet": "UNet",
        "upernet": "UPerNet",
    },
)
__getattr__ = DECODERS.attribute

if TYPE_CHECKING:
    from segweave.decoders.deeplabv3plus import DeepLabV3Plus as DeepLabV3Plus
    from segweave.decoders.dpt import DPT as DPT
    from segweave.decoders.fpn import FPN as FPN
    from segweave.decoders.segformer import SegFormer as SegFormer
    from segweave.decoders.unet import UNet as UNet
    from segweave.decoders.upernet import UPerNet as UPerNet
