"""Intersection over union and accuracies from one confusion matrix over the whole data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from segweave.errors import DataError
from segweave.metrics.metric import Metric


class SegmentationMetric(Metric):
    """miou, fwiou, pixel_accuracy, mean_accuracy and `outside`, all between 0 and 1.

    The four scores are those of J. Long, E. Shelhamer & T. Darrell, Fully convolutional networks for semantic
    segmentation (2015), section 5, "Metrics"; fwiou weighs each class by its true pixels. A class without a true pixel
    is left out of miou and mean_accuracy. A predicted value outside the classes, `ignore` included, is a miss of the
    true class; `outside` is the share of labelled pixels that got one.

    Args:
        classes: names.
        ignore: true value that does not count.
    """

    keys: ClassVar[Mapping[str, bool]] = {
        "miou": True,
        "fwiou": True,
        "pixel_accuracy": True,
        "mean_accuracy": True,
        "outside": False,
    }
    headline = "miou"

    def __init__(self, classes: Sequence[str], ignore: int) -> None:
        self.classes = list(classes)
        self.ignore = ignore
        self.reset()

    def reset(self) -> None:
        self.confusion = torch.zeros(len(self.classes), len(self.classes) + 1, dtype=torch.int64)

    def update(self, prediction: Mapping[str, Tensor], target: Tensor) -> None:
        """Adds prediction["labels"] and target, integers [b, H, W].

        Raises:
            DataError: shapes that differ, or a target that is neither a class nor `ignore`.
        """
        labels = prediction["labels"]
        if labels.shape != target.shape:
            raise DataError(f"predicted labels {list(labels.shape)}; expected {list(target.shape)}")
        count = len(self.classes)
        true = target.to(labels.device).flatten().long()
        labels = labels.flatten().long()
        labels = torch.where((labels < 0) | (labels >= count), count, labels)
        # two more rows than classes, so that nothing is picked by a mask: ignored pixels, and targets that are no class
        row = torch.where(true == self.ignore, count, torch.where((true < 0) | (true >= count), count + 1, true))
        table = torch.bincount(row * (count + 1) + labels, minlength=(count + 2) * (count + 1))
        table = table.view(count + 2, count + 1).cpu()
        if stray := int(table[-1].sum()):
            raise DataError(f"target: {stray} pixels outside 0 to {count - 1}; expected a class or {self.ignore}")
        self.confusion += table[:count]

    def _per_class(self) -> tuple[Tensor, Tensor, Tensor]:
        """IoU, accuracy and true pixels; float64, [C]."""
        hits = self.confusion[:, :-1].diagonal().double()
        true = self.confusion.sum(1).double()
        predicted = self.confusion[:, :-1].sum(0).double()
        return hits / (true + predicted - hits), hits / true, true

    def compute(self) -> dict[str, float]:
        iou, accuracy, true = self._per_class()
        present = true > 0
        total = true.sum()
        return {
            "miou": float(iou[present].mean()),
            "fwiou": float((iou[present] * true[present]).sum() / total),
            "pixel_accuracy": float(self.confusion[:, :-1].diagonal().sum() / total),
            "mean_accuracy": float(accuracy[present].mean()),
            "outside": float(self.confusion[:, -1].sum() / total),
        }

    def details(self) -> dict[str, Any]:
        """`per_class` {name: {iou, accuracy, pixels}} of the classes with true pixels, `absent_classes` of the others,
        and `confusion`: rows true, columns predicted, the last one for predictions outside the classes."""
        iou, accuracy, true = self._per_class()
        rows = zip(self.classes, iou.tolist(), accuracy.tolist(), true.tolist(), strict=True)
        table = {name: {"iou": i, "accuracy": a, "pixels": int(n)} for name, i, a, n in rows if n > 0}
        absent = [name for name in self.classes if name not in table]
        return {"per_class": table, "absent_classes": absent, "confusion": self.confusion.tolist()}

    def merge(self, other: Metric) -> None:
        assert isinstance(other, SegmentationMetric)
        self.confusion += other.confusion
