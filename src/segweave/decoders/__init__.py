"""Decoders by config name: an encoder's pyramid to one map."""

from typing import TYPE_CHECKING

from segweave.catalogue import Catalogue

DECODERS = Catalogue("decoder", __name__, {"fpn": "FPN"})
__getattr__ = DECODERS.attribute

if TYPE_CHECKING:
    from segweave.decoders.fpn import FPN as FPN
