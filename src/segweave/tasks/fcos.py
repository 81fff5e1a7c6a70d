"""The anchor-free detector FCOS (Tian et al. 2019, arXiv 1904.01355): its head, and which point answers for which box.

A point is a position of a map, at its centre in the image. Every point of every level predicts the distances to the
four sides of a box, the classes and the centre-ness. A point is trained on a box if it lies inside it and near its
centre, and if the box has the size that the point's level is for; of several such boxes on the smallest. As in
torchvision's detector there is one assignment for the two branches, and centre-ness sits on the branch of the boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

BOX, CENTERNESS, POINT, CLASSES = slice(0, 4), 4, slice(5, 8), slice(8, None)
"""Columns of the raw output: x1 y1 x2 y2 in pixels, a logit, x y stride of the point in pixels, a logit per class."""
_RADIUS = 1.5
"""Of the points near a box's centre, in strides of their level (`center sampling`)."""
_PRIOR = 0.01


class FCOSHead(nn.Module):
    """Two small towers shared by all levels; raw output [b, P, 8 + classes], the points of the finest level first.

    Groups normalise, so that a single image can be trained on.

    Args:
        channels, strides: of the maps that it is given, finest first.
        classes: how many.
        finest: smallest stride that is read; the coarsest map where all are finer.
        extra: further levels, each of twice the stride, made by convolutions.
        convs: depth of each tower.
        width: channels of the towers.

    Attributes:
        strides: of the levels that have points, ascending, each once.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: int,
        *,
        finest: int,
        extra: int,
        convs: int,
        width: int,
    ) -> None:
        super().__init__()
        of_stride = {stride: i for i, stride in enumerate(strides)}  # of maps of one stride the last, the deepest
        self.read = [i for stride, i in sorted(of_stride.items()) if stride >= finest] or [len(strides) - 1]
        self.lateral = nn.ModuleList(nn.Conv2d(channels[i], width, 1) for i in self.read)
        self.coarser = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(extra))
        last = strides[self.read[-1]]
        self.strides = [strides[i] for i in self.read] + [last * 2 ** (i + 1) for i in range(extra)]
        self.classifying, self.measuring = _tower(width, convs), _tower(width, convs)
        self.classes = nn.Conv2d(width, classes, 3, padding=1)
        self.distances = nn.Conv2d(width, 4, 3, padding=1)
        self.centerness = nn.Conv2d(width, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(self.strides)))
        for layer in (self.classes, self.distances, self.centerness):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
        # nearly all points are background: the focal loss starts from few positives (Lin et al. 2017, section 4.1)
        nn.init.constant_(self.classes.bias, -math.log((1 - _PRIOR) / _PRIOR))  # pyright: ignore[reportArgumentType]
        nn.init.constant_(self.distances.bias, 2.0)  # pyright: ignore[reportArgumentType]

    def forward(self, maps: Sequence[Tensor], height: int, width: int) -> Tensor:  # noqa: ARG002
        levels = [lateral(maps[i]) for lateral, i in zip(self.lateral, self.read, strict=True)]
        for coarser in self.coarser:
            levels.append(coarser(levels[-1].relu()))
        return torch.cat(
            [self._level(x, s, self.scales[i]) for i, (x, s) in enumerate(zip(levels, self.strides, strict=True))], 1
        )

    def _level(self, level: Tensor, stride: int, scale: Tensor) -> Tensor:
        measured = self.measuring(level)
        # half precision has no room for pixel coordinates
        distances = nn.functional.softplus(self.distances(measured).float() * scale) * stride
        points = _points(level.shape[-2], level.shape[-1], stride, level.device)
        x, y = points[:, 0], points[:, 1]
        left, top, right, bottom = distances.flatten(2).unbind(1)
        boxes = torch.stack([x - left, y - top, x + right, y + bottom], 2)
        centred = self.centerness(measured).float().flatten(2).transpose(1, 2)
        classes = self.classes(self.classifying(level)).float().flatten(2).transpose(1, 2)
        return torch.cat([boxes, centred, points.expand(len(boxes), -1, -1), classes], 2)


def _tower(width: int, convs: int) -> nn.Sequential:
    # of several channels: a map of one position has nothing else to normalise by
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if width % g == 0 and 4 * g <= max(4, width))
    blocks = [
        layer
        for _ in range(convs)
        for layer in (nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(groups, width), nn.ReLU())
    ]
    return nn.Sequential(*blocks)


def _points(height: int, width: int, stride: int, device: torch.device) -> Float[Tensor, "P 3"]:
    """x, y and stride of a level's points, row by row, in pixels."""
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) * stride
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) * stride
    grid = torch.stack([x[None].expand(height, -1), y[:, None].expand(-1, width)], -1).flatten(0, 1)
    return nn.functional.pad(grid, (0, 1), value=float(stride))


class Levels:
    """Where the points of each level lie in the flat order of the raw output; nothing of it leaves the device.

    Args:
        points: x, y and stride, [P, 3].
        strides: of the levels.
    """

    def __init__(self, points: Float[Tensor, "P 3"], strides: Sequence[int]) -> None:
        own = points[:, 2] == points.new_tensor(strides)[:, None]
        self.strides = points.new_tensor(strides)
        sides = [(points[:, axis] * own).amax(1) / self.strides + 0.5 for axis in (0, 1)]
        self.width, self.height = (side.round().long() for side in sides)
        counts = own.sum(1)
        self.first = counts.cumsum(0) - counts
        self.total = len(points)

    @classmethod
    def covering(cls, height: float, width: float, strides: Sequence[int]) -> Levels:
        """The levels of an image of at least this size."""
        sides = [(max(1, math.ceil(height / s)), max(1, math.ceil(width / s)), s) for s in strides]
        return cls(torch.cat([_points(h, w, s, torch.device("cpu")) for h, w, s in sides]), strides)


def assign(boxes: Float[Tensor, "b N columns"], usable: Bool[Tensor, "b N"], levels: Levels) -> Int64[Tensor, "b P"]:
    """The index of the box that each point is trained on; N where there is none.

    A level of stride s is for boxes whose farthest side lies more than 4 s and at most 8 s from the point; the finest
    also for smaller ones, the coarsest for larger ones (section 3.2 of the paper, with torchvision's ranges).

    Args:
        boxes: x1 y1 x2 y2 in pixels in the first columns.
        usable: which rows are boxes to be found.
    """
    strides, count = levels.strides, boxes.shape[1]
    corners = boxes[..., None, None, :4]
    centre = (corners[..., :2] + corners[..., 2:]) / 2
    # the points nearer to the centre than the radius are at most three a side
    first = (centre / strides[:, None, None] - 0.5 - _RADIUS).floor() + 1
    steps = torch.cartesian_prod(torch.arange(3), torch.arange(3)).to(boxes)
    cell = first + steps
    point = (cell + 0.5) * strides[:, None, None]
    distance = torch.cat([point - corners[..., :2], corners[..., 2:] - point], -1)
    farthest = distance.amax(-1)
    low, high = 4 * strides, 8 * strides
    low, high = low.index_fill(0, low.argmin(), 0), high.index_fill(0, high.argmax(), torch.inf)
    fits = (farthest > low[:, None]) & (farthest <= high[:, None]) & (distance.amin(-1) > 0)
    near = ((point - centre).abs() < _RADIUS * strides[:, None, None]).all(-1)
    column, row = cell[..., 0].long(), cell[..., 1].long()
    exists = (column >= 0) & (row >= 0) & (column < levels.width[:, None]) & (row < levels.height[:, None])
    valid = fits & near & exists & usable[..., None, None]
    place = (levels.first[:, None] + row * levels.width[:, None] + column).where(valid, levels.total).flatten(1)
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    area = area[..., None, None].expand(valid.shape).flatten(1)
    smallest = area.new_full((len(boxes), levels.total + 1), torch.inf).scatter_reduce(1, place, area, "amin")
    number = torch.arange(count, device=boxes.device)[:, None, None].expand(valid.shape).flatten(1)
    number = number.where(area == smallest.gather(1, place), count)
    chosen = number.new_full((len(boxes), levels.total + 1), count).scatter_reduce(1, place, number, "amin")
    return chosen[:, :-1]
