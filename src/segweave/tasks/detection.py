"""Object detection: boxes with a class and a score, by an anchor-free head on the pyramid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchvision.ops import box_iou, nms

from segweave.batch import Terms
from segweave.errors import ConfigError, DataError
from segweave.metrics.detection import DetectionMetric
from segweave.palette import default_palette
from segweave.tasks import coco
from segweave.tasks.box_picture import draw_boxes
from segweave.tasks.boxes import COLUMNS, Boxes
from segweave.tasks.fcos import BOX, CENTERNESS, CLASSES, POINT, FCOSHead, Levels, assign
from segweave.tasks.options import class_names
from segweave.tasks.task import CommonOptions, Legend, Prediction, Summary, Task

_CANDIDATES = 1000
"""Boxes that non-maximum suppression sees, the surest; more where more are to be reported."""
_HIT, _FALSE, _MISSED = (46, 160, 67), (215, 40, 40), (255, 170, 30)
_CROWD = (150, 150, 150)


class Detection(Task):
    """Boxes x1 y1 x2 y2 in pixels; the annotation is `Boxes` [N, 8], the target float32 [N, 7] without `visible`.

    Targets of a batch are padded to one N with rows of label -1. The head is FCOS (Tian et al. 2019). Crowds, boxes
    that stand for many objects, train nothing: points inside them count neither as object nor as background.

    Args:
        name: the task's name.
        classes: how many, their names, or a file of names. Names are looked up among a COCO file's categories.
        ignore: categories of a file that are left out; `others` for all that are no class.
        category_ids: of the classes in COCO files, for classes whose name no category has there; by default those of
            the annotation file (below 0 for a class that it lacks), else 1, 2, ...
        ids: for `derive: boxes`: the class that a mask value stands for, such as `{8: car, 9: pedestrian}`; other
            values are background. By default the classes are found by name.
        min_pixels: for `derive: boxes`: smaller objects are left out.
        min_visible: boxes of which a crop leaves a smaller share are dropped, 0 to 1.
        finest: smallest stride of the maps that the head reads; 4 finds objects of a few pixels, at four times the
            cost of 8.
        extra: further, coarser levels that the head makes itself, for large objects in large images.
        convs: depth of the head's two towers.
        width: their channels.
        min_score: boxes with a lower score are left out.
        overlap: two boxes of one class with a higher IoU are one object: the surer one stays.
        max_boxes: in an image.
        draw_above: score from which boxes are drawn.
        colours: `{class name: [red, green, blue]}`, for the pictures.

    Raises:
        ConfigError: numbers out of range, or ids that name no class.
    """

    kind = "detection"
    losses = ("focal", "giou", "centerness")
    dense = False
    place = "pyramid"
    reading = ("ignore", "category_ids")

    def __init__(
        self,
        name: str,
        *,
        classes: int | Sequence[str | int] | str | None = None,
        ignore: Sequence[str] | Literal["others"] | None = None,
        category_ids: Sequence[int] | None = None,
        ids: Mapping[int, str] | None = None,
        min_pixels: int = 16,
        min_visible: float = 0.25,
        finest: int = 8,
        extra: int = 1,
        convs: int = 2,
        width: int = 128,
        min_score: float = 0.05,
        overlap: float = 0.5,
        max_boxes: int = 100,
        draw_above: float = 0.4,
        colours: Mapping[str, Sequence[int]] | None = None,
        **common: Unpack[CommonOptions],
    ) -> None:
        every: Any = {"loss": dict.fromkeys(self.losses, 1.0)}
        super().__init__(name, **every | {key: value for key, value in common.items() if value is not None})
        missing = [loss for loss in self.losses[:2] if loss not in self.loss_options]
        if missing:
            raise ConfigError(f"tasks.{name}.loss: found {list(self.loss_options)}; expected {', '.join(missing)} too")
        self.classes = class_names(name, classes)
        # a checkpoint holds the names that a mere number was given
        self._named = self.classes != class_names(name, len(self.classes))
        self.ignore = ignore if ignore == "others" else list(ignore or ())
        self.category_ids = list(category_ids) if category_ids else None
        self._wanted = self.category_ids or []
        if self.category_ids and len(set(self.category_ids)) != len(self.classes):
            raise ConfigError(f"tasks.{name}.category_ids: found {category_ids}; expected {len(self.classes)} numbers")
        # YAML and JSON keys may be text
        self.ids = {int(value): class_name for value, class_name in (ids or {}).items()} or None
        for value, class_name in (self.ids or {}).items():
            if class_name not in self.classes:
                raise ConfigError(
                    f"tasks.{name}.ids.{value}: {class_name!r} is no class; expected one of {self.classes}"
                )
        least = {"min_pixels": (min_pixels, 1), "finest": (finest, 1), "extra": (extra, 0), "convs": (convs, 0)}
        least |= {"width": (width, 4), "max_boxes": (max_boxes, 1)}
        for key, (value, low) in least.items():
            if value < low:
                raise ConfigError(f"tasks.{name}.{key}: found {value}; expected at least {low}")
        shares = {"min_visible": min_visible, "min_score": min_score, "overlap": overlap, "draw_above": draw_above}
        for key, share in shares.items():
            if not 0 <= share <= 1:
                raise ConfigError(f"tasks.{name}.{key}: found {share}; expected 0 to 1")
        self.min_pixels, self.min_visible = min_pixels, min_visible
        self.finest, self.extra, self.convs, self.width = finest, extra, convs, width
        self.min_score, self.overlap, self.max_boxes, self.draw_above = min_score, overlap, max_boxes, draw_above
        self.colours = {key: list(value) for key, value in (colours or {}).items()}
        for key in self.colours:
            if key not in self.classes:
                raise ConfigError(f"tasks.{name}.colours.{key}: not a class; expected some of {self.classes}")
        self.palette: list[tuple[int, int, int]] = []
        for class_name, fallback in zip(self.classes, default_palette(len(self.classes)), strict=True):
            red, green, blue = self.colours.get(class_name, fallback)
            self.palette.append((red, green, blue))
        self._images: dict[int | str, str] = {}
        self._strides: list[int] = []
        self.build_criteria(ignore=-1)

    # labels

    def wrap(self, values: Tensor, size: tuple[int, int]) -> Tensor:
        return Boxes.of(values, size)

    def size(self, annotation: Tensor) -> tuple[int, int] | None:
        return annotation.canvas_size if isinstance(annotation, Boxes) else None

    def notes(self, annotation: Tensor) -> Mapping[str, int]:
        return annotation.notes if isinstance(annotation, Boxes) else {}

    def read(self, path: Path) -> Tensor:
        raise DataError(
            f"{path}: task {self.name!r} reads boxes from one COCO JSON file for a split; expected such a file in "
            f"data.tasks, or masks as tasks.{self.name}.source with derive: boxes"
        )

    def read_all(self, path: Path) -> Mapping[str, Callable[[], Tensor]] | None:
        numbers = self.category_ids or []
        # what one file calls 1 says nothing of another's, where names do
        wanted = self._wanted if self._named else numbers
        how: Any = {"named": self._named, "numbers": wanted, "ignore": self.ignore}
        found = coco.read_annotations(path, self.name, self.classes, **how)
        # what one file lacks another may have
        pairs = zip(numbers or found.categories, found.categories, strict=True)
        self.category_ids = [new if number < 0 else number for number, new in pairs]
        self._images |= found.images
        return found.boxes

    def encode(self, annotation: Tensor) -> Tensor:
        rows = annotation.as_subclass(Tensor)
        seen = rows[:, COLUMNS.index("visible")]
        return rows[(seen >= self.min_visible) & (seen > 0), : COLUMNS.index("visible")]

    def stack(self, targets: Sequence[Tensor]) -> Tensor:
        stacked = torch.full((len(targets), max(map(len, targets)), 7), -1.0)
        for row, target in zip(stacked, targets, strict=True):
            row[: len(target)] = target
        return stacked

    # the network

    def head(self, channels: Sequence[int], strides: Sequence[int]) -> nn.Module:
        options = {"finest": self.finest, "extra": self.extra, "convs": self.convs, "width": self.width}
        head = FCOSHead(channels, strides, len(self.classes), **options)
        self._strides = head.strides
        return head

    def counts(self, target: Float[Tensor, "b N 7"]) -> dict[str, Tensor]:
        """Points that are trained on a box; at least one for `focal`, so that an image without objects counts."""
        sides = target[..., :4].flatten(0, 1).amax(0).clamp(min=0).tolist() if target.numel() else [0.0] * 4
        levels = Levels.covering(sides[3], sides[2], self._strides)
        points = (assign(target, _usable(target), levels) < target.shape[1]).sum(1).float()
        counts = {name: points.clamp(min=1) if name == "focal" else points for name in self.criteria}
        return {name: (n > 0).float() for name, n in counts.items()} if self.average == "image" else counts

    def loss(self, output: Float[Tensor, "b P columns"], target: Float[Tensor, "b N 7"]) -> Mapping[str, Terms]:
        points = output[0, :, POINT].detach()
        self._strides = self._strides or points[:, 2].unique_consecutive().int().tolist()
        which = assign(target, _usable(target), Levels(points, self._strides))
        found = which < target.shape[1]
        padded = nn.functional.pad(target, (0, 0, 0, 1), value=-1.0)
        chosen = padded.gather(1, which[..., None].expand(-1, -1, 7))
        boxes = torch.where(found[..., None], chosen[..., :4], 0.0)
        to_sides = torch.cat([points[:, :2] - boxes[..., :2], boxes[..., 2:] - points[:, :2]], -1)
        labels = torch.where(found, chosen[..., 4], -1.0)
        one_hot = (labels[..., None] == torch.arange(len(self.classes), device=labels.device)).float()
        crowded = _inside_crowd(points, target) & ~found
        given = {
            "focal": (output[..., CLASSES], torch.where(crowded[..., None], -1.0, one_hot)),
            "giou": (output[..., BOX], boxes),
            "centerness": (output[..., CENTERNESS], torch.where(found[..., None], to_sides, -1.0)),
        }
        positives = found.sum(1).float()
        terms = {}
        for name, criterion in self.criteria.items():
            weight = float(self.loss_options[name]["weight"])
            count = positives.clamp(min=1) if name == "focal" else positives
            term = Terms(weight * criterion(*given[name]), count)
            terms[name] = term.per_image() if self.average == "image" else term
        return terms

    def resize(self, output: Tensor, used: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Boxes in pixels of an image of that size, clipped to it."""
        # sizes stay numbers: as a tensor an exported network would hold those of its example
        across, down = size[1] / used[1], size[0] / used[0]
        left, top, right, bottom = output[..., BOX].unbind(-1)
        boxes = [(side * across).clamp(0, size[1]) for side in (left, right)]
        boxes += [(side * down).clamp(0, size[0]) for side in (top, bottom)]
        x, y, stride = output[..., POINT].unbind(-1)
        points = [x * across, y * down, stride * (across * down) ** 0.5]
        columns = [boxes[0], boxes[2], boxes[1], boxes[3], output[..., CENTERNESS], *points]
        return torch.cat([torch.stack(columns, -1), output[..., CLASSES]], -1)

    def decode(self, output: Tensor) -> Prediction:
        """`boxes` [b, K, 4], `scores` [b, K] descending and `labels` [b, K], with label -1 where there are fewer.

        The score is the geometric mean of the class's probability and the centre-ness, as in torchvision.
        """
        scores = (output[..., CLASSES].sigmoid() * output[..., CENTERNESS, None].sigmoid()).sqrt()
        # with one point a box has one class; a lower score of another class there is the same object
        best, labels = scores.max(-1)
        top, order = best.topk(min(max(_CANDIDATES, self.max_boxes), best.shape[1]), 1)
        boxes = output[..., BOX].gather(1, order[..., None].expand(-1, -1, 4))
        labels = labels.gather(1, order)
        # boxes of different classes are moved apart, so that none suppresses the other
        apart = boxes + (labels * (boxes.amax((1, 2), keepdim=True)[..., 0] + 1))[..., None]
        stays = torch.stack([_survivors(*image, self.overlap) for image in zip(apart, top, strict=True)])
        sure = torch.where(stays & (top > self.min_score), top, -1.0)
        missing = self.max_boxes - sure.shape[1]
        if missing > 0:
            sure = nn.functional.pad(sure, (0, missing), value=-1.0)
            boxes, labels = nn.functional.pad(boxes, (0, 0, 0, missing)), nn.functional.pad(labels, (0, missing))
        kept, order = sure.topk(self.max_boxes, 1)
        found = kept > 0
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4)).where(found[..., None], 0.0)
        labels = labels.gather(1, order).where(found, -1)
        return {"boxes": boxes, "scores": kept.clamp(min=0), "labels": labels}

    def metric(self) -> DetectionMetric:
        return DetectionMetric(self.classes)

    # files and pictures

    def write(self, folder: Path, id: str, prediction: Prediction) -> Path:
        path = folder / f"{self.name}.json"
        numbers = self.category_ids or list(range(1, len(self.classes) + 1))
        results = []
        rows = zip(*(prediction[key].tolist() for key in ("boxes", "scores", "labels")), strict=True)
        for (left, top, right, bottom), score, label in rows:
            if label >= 0:
                box = [round(value, 4) for value in (left, top, right - left, bottom - top)]
                image = int(id) if id.isdecimal() else id
                result = {"image_id": image, "category_id": numbers[label], "bbox": box, "score": round(score, 6)}
                results.append(result | {"category": self.classes[label], "file_name": id})
        coco.append_results(path, results)
        return path

    def predictions(self, folder: Path) -> dict[str, Callable[[], Prediction]]:
        path = folder / f"{self.name}.json"
        if not path.exists():
            files = sorted(folder.glob("*.json"))
            if len(files) != 1:
                raise DataError(f"{folder}: found {len(files)} JSON files; expected {path.name}")
            path = files[0]
        numbers = {id: i for i, id in enumerate(self.category_ids or range(1, len(self.classes) + 1))}
        return coco.read_results(path, self.name, self.classes, numbers, self._images)

    def describe(self, target: Tensor) -> Summary:
        real = target[target[:, 5] == 0]
        counts = torch.bincount(real[:, 4].long(), minlength=len(self.classes)).tolist()
        sides = (real[:, 2:4] - real[:, :2]).prod(1).sqrt()
        values = {}
        if len(real):
            values["side of boxes in pixels"] = (float(sides.min()), float(sides.median()), float(sides.max()))
        doubts = []
        if len(real) and float(sides.min()) < 2:
            doubts.append("boxes of less than 2 pixels a side")
        if len(real) != len(torch.unique(real[:, :5], dim=0)):
            doubts.append("the same box twice")
        return Summary("boxes", dict(zip(self.classes, counts, strict=True)), values=values, doubts=doubts)

    def _shown(self, prediction: Prediction) -> tuple[Tensor, Tensor, Tensor]:
        boxes, scores, labels = (prediction[key].cpu() for key in ("boxes", "scores", "labels"))
        shown = (scores >= self.draw_above) & (labels >= 0)
        return boxes[shown], scores[shown], labels[shown].long()

    def draw(self, image: Tensor, prediction: Prediction) -> Tensor:
        boxes, scores, labels = self._shown(prediction)
        colours = [self.palette[i] for i in labels.tolist()]
        sure = [f"{score:.2f}" if score < 1 else "" for score in scores.tolist()]
        return draw_boxes(image, boxes, colours, sure)

    def legend(self, prediction: Prediction) -> Legend:
        labels = self._shown(prediction)[2]
        counts = torch.bincount(labels, minlength=len(self.classes)).tolist()
        return Legend(entries=[(f"{self.classes[i]} ({n})", self.palette[i]) for i, n in enumerate(counts) if n])

    def truth(self, target: Tensor) -> Prediction:
        real = target[(target[:, 4] >= 0) & (target[:, 5] == 0)]
        return {"boxes": real[:, :4], "scores": torch.ones(len(real)), "labels": real[:, 4].long()}

    def draw_error(self, image: Tensor, prediction: Prediction, target: Tensor) -> Tensor:
        boxes, colours = self._errors(prediction, target)
        return draw_boxes((40 + 0.6 * image.float()).to(torch.uint8), boxes, colours, [""] * len(colours))

    def error_legend(self, prediction: Prediction, target: Tensor) -> Legend:
        colours = self._errors(prediction, target)[1]
        names = {_HIT: "found", _FALSE: "false", _MISSED: "missed"}
        return Legend(entries=[(f"{name} ({colours.count(c)})", c) for c, name in names.items() if c in colours])

    def _errors(self, prediction: Prediction, target: Tensor) -> tuple[Tensor, list[tuple[int, int, int]]]:
        """Boxes that are drawn, found ones and false ones, and true ones that were missed (IoU from 0.5)."""
        boxes, _, labels = self._shown(prediction)
        truth = self.truth(target.cpu())
        free = box_iou(boxes, truth["boxes"]) * (labels[:, None] == truth["labels"])
        colours = []
        for row in range(len(boxes)):
            best = int(free[row].argmax()) if free.shape[1] else -1
            hit = best >= 0 and float(free[row, best]) >= 0.5
            colours.append(_HIT if hit else _FALSE)
            if hit:
                free[:, best] = -1.0
        missed = ~(free == -1.0).all(0) if len(boxes) else torch.ones(len(truth["boxes"]), dtype=torch.bool)
        return torch.cat([boxes, truth["boxes"][missed]]), colours + [_MISSED] * int(missed.sum())


def _survivors(boxes: Float[Tensor, "K 4"], scores: Float[Tensor, " K"], overlap: float) -> Bool[Tensor, " K"]:
    """Which boxes non-maximum suppression leaves, as a mask: a result of fixed size can be exported."""
    kept = nms(boxes, scores, overlap)
    return torch.zeros_like(scores, dtype=torch.bool).index_fill(0, kept, True)


def _usable(target: Float[Tensor, "b N 7"]) -> Tensor:
    return (target[..., 4] >= 0) & (target[..., 5] == 0)


def _inside_crowd(points: Float[Tensor, "P 3"], target: Float[Tensor, "b N 7"], block: int = 256) -> Tensor:
    """Whether a point lies inside a crowd, [b, P]; block by block, because boxes may be thousands."""
    inside = torch.zeros(len(target), len(points), dtype=torch.bool, device=points.device)
    crowds = (target[..., 5] > 0) & (target[..., 4] >= 0)
    for boxes, crowd in zip(target[..., :4].split(block, 1), crowds.split(block, 1), strict=True):
        if not crowd.any():
            continue
        x, y = points[:, None, 0], points[:, None, 1]
        x1, y1, x2, y2 = boxes[:, None].unbind(-1)
        inside |= ((x > x1) & (x < x2) & (y > y1) & (y < y2) & crowd[:, None]).any(-1)
    return inside
