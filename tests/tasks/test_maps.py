"""Dense maps: every transform moves each leading place alone, and returns the subclass that it was given."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from segweave.tasks.edge_map import EdgeMap
from segweave.tasks.maps import DenseMap
from segweave.tasks.normals import NormalMap

MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "resize": lambda value: functional.resize(value, [3, 11]),
    "crop": lambda value: functional.crop(value, 1, 2, 3, 4),
    "crop beyond the border": lambda value: functional.crop(value, -1, 2, 4, 9),
    "flip": functional.horizontal_flip,
    "pad": lambda value: functional.pad(value, [1, 0, 2, 3], fill=7.0),
    "resized crop": lambda value: functional.resized_crop(value, 1, 2, 3, 4, [6, 2]),
}


class Signs(DenseMap):
    """A subclass that registers nothing."""


@pytest.mark.parametrize("lead", [(2,), (2, 3)])
@pytest.mark.parametrize("move", MOVES)
def test_leading_axes_move_as_maps_of_their_own(move: str, lead: tuple[int, ...]) -> None:
    values = torch.randn(*lead, 5, 7)
    moved = MOVES[move](DenseMap(values)).as_subclass(Tensor)
    alone = [MOVES[move](DenseMap(plane)).as_subclass(Tensor) for plane in values.reshape(-1, 5, 7)]
    assert torch.equal(moved, torch.stack(alone).reshape(*lead, *alone[0].shape))


@pytest.mark.parametrize("kind", [DenseMap, EdgeMap, NormalMap, Signs])
@pytest.mark.parametrize("move", MOVES)
def test_the_type_stays(move: str, kind: type[DenseMap]) -> None:
    values = torch.zeros(3, 5, 7) if kind is NormalMap else torch.zeros(5, 7)
    assert type(MOVES[move](kind(values))) is kind


def test_a_subclass_differs_where_it_registers() -> None:
    """A flip of normals negates x; all else is as in every dense map."""
    values = torch.randn(3, 5, 7)
    mirrored = values.flip(-1) * torch.tensor([-1.0, 1, 1])[:, None, None]
    for name, move in MOVES.items():
        found, plain = move(NormalMap(values)).as_subclass(Tensor), move(DenseMap(values)).as_subclass(Tensor)
        assert torch.equal(found, mirrored if name == "flip" else plain)
