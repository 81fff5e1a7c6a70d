"""SpaceNet, buildings and roads in satellite images: GeoTIFF tiles and GeoJSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from segweave import rasters
from segweave.data.files import Label
from segweave.data.georeference import read_georeference
from segweave.data.layout import last, list_files, without_suffix
from segweave.data.published import Layer, Published
from segweave.data.vectors import fill, read_geojson, stroke
from segweave.errors import ConfigError, DataError
from segweave.tasks.task import Task

_IMAGERY = ("PS-RGB", "RGB-PanSharpen", "3band", "Pan-Sharpen")
_TIFF, _VECTORS = frozenset({".tif", ".tiff"}), frozenset({".geojson"})
_TILE = re.compile(r"(img\d+|\d+_\d+)$")
_AREA = re.compile(r"AOI_(\d+)")
_TEST = re.compile(r"(^|_)test(_public)?$", re.IGNORECASE)


class SpaceNet(Published):
    """Tiles and their labels, wherever below `root` they lie (Van Etten et al. 2018).

    A tile is found by the end of its name, `img12` or the easting and northing `733601_3724734`, and by the number of
    its area where the path says `AOI_2_Vegas`. So are the GeoJSON files: those with `road` in the name of the file or
    of its folder are of roads, the others of buildings. This fits SpaceNet 1 to 6 (`AOI_2_Vegas/PS-RGB` and
    `geojson_buildings`, `RGB-PanSharpen` and `geojson/buildings`, `3band` and `geojson`) and the tiles that solaris
    cuts. Folders called test or `..._test_public` are not read: they have no labels. A tile without a file of labels is
    not labelled; one whose file has no features shows no building.

    Layers: `footprints`, 1 where the centre of a pixel lies in a building, as in `vectors.fill`; `objects`, the boxes
    of the polygons; `presence`, whether `footprints` shows any; `roads`, 1 where the centre of a pixel lies at most
    half of `road_width` from a line, measured on the WGS 84 ellipsoid where coordinates are degrees. Labels and image
    must be of one reference system. Images of one tile are drawn together to train or val.

    Args:
        split: which part to read.
        readers: the tasks.
        imagery: the folder of the images, such as `MUL-PanSharpen`; by default PS-RGB, RGB-PanSharpen, 3band or
            Pan-Sharpen, whichever there is first, or the only one that has tiles. The number of its bands is for
            `bands` to say.
        road_width: of roads, in metres, of both sides together.
        common: the options of `Published`.
    """

    known: ClassVar[Mapping[str, Layer]] = {
        "footprints": Layer("semantic", ("building",)),
        "roads": Layer("semantic", ("road",)),
        "objects": Layer("detection", ("building",)),
        "presence": Layer("classification", ("no building", "building")),
    }
    published = ("train",)

    def __init__(
        self,
        split: str,
        readers: Sequence[Task],
        *,
        imagery: str | None = None,
        road_width: float = 4.0,
        **common: Any,
    ) -> None:
        if not road_width > 0:
            raise ConfigError(f"data.road_width: found {road_width}; expected metres, above 0")
        self.imagery = imagery
        self.road_width = float(road_width)
        super().__init__(split, readers, **common)

    def group(self, id: str) -> str:
        return " ".join(_tile_of(id) or [id])

    def images(self, split: str) -> Mapping[str, Path]:  # noqa: ARG002
        tiles = [name for name in self._files(_TIFF) if _tile_of(name)]
        folders = sorted({(self.root / name).parent.name for name in tiles})
        usual = [name for name in _IMAGERY if name in folders]
        chosen = self.imagery or (usual[0] if usual else folders[0] if len(folders) == 1 else None)
        if chosen not in folders:
            found = ", ".join(folders) or "no tiles"
            expected = (
                "the name of one of these" if folders else "GeoTIFF files called ..._img1.tif or ..._733601_3724734.tif"
            )
            raise ConfigError(f"data.imagery: found {self.imagery} and in {self.root} {found}; expected {expected}")
        images: dict[str, Path] = {}
        for name in tiles:
            path, id = self.root / name, last(without_suffix(name))
            if path.parent.name != chosen:
                continue
            if id in images:
                raise DataError(f"{path}: {images[id]} has the same name; expected one image of a name")
            images[id] = path
        return images

    def labels(self, layer: str, split: str) -> Mapping[str, Label]:
        found: dict[Sequence[str], Path] = {}
        for name in self._files(_VECTORS):
            tile = _tile_of(name)
            if tile and ("road" in "/".join(name.split("/")[-2:]).lower()) == (layer == "roads"):
                # geojson_roads comes before geojson_roads_speed, which has the same lines
                found.setdefault(tile, self.root / name)
        tiles = {id: _tile_of(path.relative_to(self.root).as_posix()) for id, path in self.images(split).items()}
        matched = {id: found[tile] for id, tile in tiles.items() if tile in found}
        if not matched:
            raise DataError(f"{self.root}: found no GeoJSON file of {layer} with the name of a tile; expected some")
        return matched

    def _files(self, suffixes: frozenset[str]) -> list[str]:
        names = list_files(self.root, suffixes)
        return [name for name in names if not any(map(_TEST.search, name.split("/")[:-1]))]

    def values(self, layer: str, label: Label, id: str) -> Tensor:
        assert isinstance(label, Path)
        image = self._images[id]
        header, place = rasters.read_header(image), read_georeference(image)
        epsg, shapes, others = read_geojson(label)
        if epsg is None or epsg != place.epsg:
            systems = [f"EPSG:{number}" if number else "an unknown reference system" for number in (epsg, place.epsg)]
            raise DataError(
                f"{label}: found coordinates of {systems[0]}; expected {systems[1]}, that of {image}. Reproject one, "
                f"for example with ogr2ogr"
            )
        wanted = [
            [place.to_pixels(path) for path in shape.paths] for shape in shapes if shape.closed != (layer == "roads")
        ]
        if left := others + len(shapes) - len(wanted):
            self.notes[f"features that are no {'lines' if layer == 'roads' else 'polygons'}: left out"] += left
        size = (header.width, header.height)
        bounds = [(points.min(0), points.max(0)) for points in map(np.concatenate, wanted)]
        if outside := sum(bool((high <= 0).any() or (low >= size).any()) for low, high in bounds):
            self.notes["features that lie outside their image: left out"] += outside
        if layer == "objects":
            corners = [np.concatenate(rings) for rings in wanted]
            rows = [[*points.min(0), *points.max(0), 0] for points in corners]
            return torch.tensor(np.array(rows, np.float32).reshape(-1, 5))
        mask = np.zeros((header.height, header.width), bool)
        for paths in wanted:
            if layer == "roads":
                for line in paths:
                    stroke(mask, line, self.road_width / 2, place.pixel_size(*mask.shape))
            else:
                fill(mask, paths)
        return torch.tensor(int(mask.any())) if layer == "presence" else torch.from_numpy(mask.astype(np.uint8))


def _tile_of(name: str) -> tuple[str, str] | None:
    """The number of the area, if there is one, and the name of the tile; None for what is no tile."""
    tile, area = _TILE.search(without_suffix(name, _TIFF | _VECTORS)), _AREA.findall(name)
    return (area[-1] if area else "", tile[1]) if tile else None
