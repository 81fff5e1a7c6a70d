"""Data-set formats by config name."""

from typing import TYPE_CHECKING

from segweave.catalogue import Catalogue

FORMATS = Catalogue("data format", __name__, {"folder": "Folder", "synthetic": "Synthetic"})
__getattr__ = FORMATS.attribute

if TYPE_CHECKING:
    from segweave.data.folder import Folder as Folder
    from segweave.data.synthetic import Synthetic as Synthetic
