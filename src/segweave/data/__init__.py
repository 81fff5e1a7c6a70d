"""Data-set formats by config name; `sampling` and `derived` have the tables of samplings and derivations."""

from typing import TYPE_CHECKING

from segweave.catalogue import Catalogue
from segweave.data.derived import DERIVATIONS as DERIVATIONS
from segweave.data.sampling import SAMPLINGS as SAMPLINGS

FORMATS = Catalogue(
    "data format",
    __name__,
    {
        "folder": "Folder",
        "synthetic": "Synthetic",
        "camvid": "CamVid",
        "cityscapes": "Cityscapes",
        "pascal_context": "PascalContext",
        "coco": "Coco",
        "oxford_pets": "OxfordPets",
        "table": "Tabular",
        "yolo": "Yolo",
        "nyuv2": "NYUv2",
        "cwfid": "CWFID",
        "dsb2018": "DSB2018",
        "spacenet": "SpaceNet",
    },
)
__getattr__ = FORMATS.attribute

if TYPE_CHECKING:
    from segweave.data.camvid import CamVid as CamVid
    from segweave.data.cityscapes import Cityscapes as Cityscapes
    from segweave.data.coco import Coco as Coco
    from segweave.data.cwfid import CWFID as CWFID
    from segweave.data.dsb2018 import DSB2018 as DSB2018
    from segweave.data.folder import Folder as Folder
    from segweave.data.nyuv2 import NYUv2 as NYUv2
    from segweave.data.oxford_pets import OxfordPets as OxfordPets
    from segweave.data.pascal_context import PascalContext as PascalContext
    from segweave.data.spacenet import SpaceNet as SpaceNet
    from segweave.data.synthetic import Synthetic as Synthetic
    from segweave.data.table import Tabular as Tabular
    from segweave.data.yolo import Yolo as Yolo
