"""Boundaries between classes or objects, as edges."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int32, UInt8
from torch import Tensor

from segweave.data.derived.derivation import UNLABELLED, Derivation, Source
from segweave.data.derived.distance import distances_to
from segweave.errors import ConfigError
from segweave.tasks.semantic import IGNORE
from segweave.tasks.task import Task

Side = Literal["thin", "both", "inner", "outer"]


class Boundary(Derivation):
    """Pixels beside a pixel of another class or object; for `edges`.

    A boundary runs between two labelled pixels with different ids that share a side. A pixel that would be an edge if
    an unlabelled pixel had another id is not labelled. The image's edge is no boundary.

    Args:
        side: `thin` is one pixel, that to the left of the boundary or above it; `both` are the pixels on both sides;
            `inner` those of objects alone, `outer` those of the background alone, so that none lies between two objects
            that touch.
        width: of `both`, `inner` and `outer`, how many pixels deep: those whose centre is at most so far from the
            centre of a pixel of another id.
        background: the id of classes that is no object, for `inner` and `outer`; of instances 0 always is none.

    Raises:
        ConfigError: a width below 1, or one that `thin` does not have.
    """

    gives = "edges"

    def __init__(
        self,
        task: Task,
        source: Source,
        *,
        side: Literal["thin", "both", "inner", "outer"] = "thin",
        width: int = 1,
        background: int = 0,
    ) -> None:
        super().__init__(task, source, "boundary")
        if width < 1 or (side == "thin" and width > 1):
            expected = "1, or another side" if side == "thin" else "1 or more"
            raise ConfigError(f"{self.where}.width: found {width}; expected {expected}")
        self.side: Side = side
        self.width = width
        self.background = 0 if source.kind == "instances" else background

    def __call__(self, values: Tensor) -> Tensor:
        ids = values.numpy()
        made = thin(ids) if self.side == "thin" else thick(ids, self.width)
        if self.side in ("inner", "outer"):
            beside = ids == self.background
            made[(beside if self.side == "inner" else ~beside) & (ids != UNLABELLED)] = 0
        return torch.from_numpy(made)


def thin(ids: Int32[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """1 where the right or the lower neighbour has another id, else 0; 255 where that, or the pixel, is unlabelled."""
    edge, doubt = np.zeros(ids.shape, bool), ids == UNLABELLED
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        edge[here] |= (ids[here] != ids[there]) & (ids[there] != UNLABELLED)
        doubt[here] |= ids[there] == UNLABELLED
    return _edges(edge & (ids != UNLABELLED), doubt)


def thick(ids: Int32[np.ndarray, "H W"], width: int) -> UInt8[np.ndarray, "H W"]:
    """1 within `width` pixels of another id, else 0; 255 within `width` of an unlabelled pixel, and there."""
    other, unknown = distances_to(ids, width)
    return _edges(other <= width, unknown <= width)


def _edges(edge: Bool[np.ndarray, "H W"], doubt: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    return np.where(edge, 1, np.where(doubt, IGNORE, 0)).astype(np.uint8)
