"""NYU Depth v2, indoor scenes with depth, in the three layouts that it is trained from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from segweave.data.files import Label
from segweave.data.nyuv2_layouts import LAYOUTS, Layout, Matlab
from segweave.data.published import Layer, Published
from segweave.errors import ConfigError, DataError


class NYUv2(Published):
    """1449 labelled frames of Silberman et al. (ECCV 2012), in whichever of these layouts lies in `root`.

    - `nyu_images`, `nyu_labels40` and `nyu_depths` with `train.txt` and `test.txt`. Layer `semantic40` has 39 classes:
      the file's 39 is both `otherprop` and what nobody labelled, so it is not labelled. Layer `depth` has 8 bits.
    - `train` and `val` with `image`, `label`, `depth` and `normal` of `.npy` arrays, 288 x 384, as MTAN (Liu et al.
      2019), LibMTL and FAMO read them. Layers `semantic13`, `depth` and `normals`. Images are floats from 0 to 1.
      Normals are taken as they are stored: x lies across, which is what flips need, but no document says which way the
      axes point.
    - `nyu_depth_v2_labeled.mat` with `splits.mat` (795 frames to train, 654 to test) and `classMapping40.mat` beside
      it. Layers `semantic40` and `semantic13`, `depth` (holes filled) and `raw_depth` (0 where the sensor saw nothing).
      A frame's id is its number from 1. Frames of a scene are drawn together to train or val. It needs h5py.

    The 40 classes are those of Gupta et al. (CVPR 2013), the 13 those of Couprie et al. (ICLR 2013). Neighbouring
    frames look alike.
    """

    known: ClassVar[Mapping[str, Layer]] = {name: layer for kind in LAYOUTS for name, layer in kind.layers.items()}
    _layout: Layout

    @classmethod
    def offered(cls, options: Mapping[str, Any]) -> Mapping[str, Layer]:
        layout = _layout_in(Path(options["root"]).expanduser()) if "root" in options else None
        return layout.layers if layout else cls.known

    def find(self) -> None:
        layout = _layout_in(self.root)
        if layout is None:
            there = ", ".join(sorted(path.name for path in self.root.iterdir())[:8]) or "nothing"
            wanted = " or ".join(str(kind.mark) for kind in LAYOUTS)
            raise DataError(f"{self.root}: found {there}; expected {wanted}")
        self._layout, self.published = layout, layout.splits

    def group(self, id: str) -> str:
        return self._layout.scenes.get(id, id)

    def images(self, split: str) -> Mapping[str, Path]:
        if isinstance(self._layout, Matlab) and self.bands not in (None, 3):
            raise ConfigError(f"data.bands: found {self.bands}; expected none or 3, which {Matlab.mark} has")
        return self._layout.images(split, self.notes)

    def labels(self, layer: str, split: str) -> Mapping[str, Label]:
        return self._layout.labels(layer, split)

    def values(self, layer: str, label: Label, id: str) -> Tensor:
        assert isinstance(label, Path)
        if layer in self._layout.doubts:
            self.notes[self._layout.doubts[layer]] += 1
        return self._layout.values(layer, label, id)

    def file(self, index: int, task: str | None = None) -> Path | None:
        return None if isinstance(self._layout, Matlab) else super().file(index, task)

    def _read(self, index: int) -> tuple[Tensor, str | None]:
        id = self.ids[index]
        return self._layout.image(self._images[id], id) or super()._read(index)


def _layout_in(root: Path) -> Layout | None:
    """The layout that lies in a folder or in one of its folders; None where none does."""
    below = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    found = (kind(place) for place in (root, *below) for kind in LAYOUTS if (place / kind.mark).exists())
    return next(found, None)
