"""Accuracy, macro F1 and AUROC of whole-image labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from segweave.metrics.metric import Metric


class ClassificationMetric(Metric):
    """accuracy, macro_f1 and auroc, between 0 and 1; decided by argmax, or multi-label by a score above 0.5.

    Accuracy of multi-label is the share of known entries that are right. Classes absent from the truth are left out of
    macro F1. AUROC is exact, with ties by mean ranks (Mann & Whitney 1947): the mean of one-vs-rest over the classes
    with both outcomes; with two single-label classes it is that of the second. Every score is kept until `reset`.

    Args:
        classes: names.
        multi_label: targets are 0 / 1 per class (-1 unknown) instead of one class index (-1 unknown).
    """

    def __init__(self, classes: Sequence[str], multi_label: bool = False) -> None:
        self.classes = list(classes)
        self.multi_label = multi_label
        self.headline = "macro_f1" if multi_label else "accuracy"
        self.reset()

    def reset(self) -> None:
        self._scores: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, prediction: Mapping[str, Tensor], target: Tensor) -> None:
        """Adds prediction["scores"], probabilities [b, C], and target, int64 [b] or for multi-label float [b, C]."""
        self._scores.append(prediction["scores"].detach().cpu().double())
        self._targets.append(target.detach().cpu().double())

    def _tables(self) -> tuple[Float[Tensor, "n C"], Bool[Tensor, "n C"], Bool[Tensor, "n C"], Bool[Tensor, "n C"]]:
        """Scores, truth, decisions and known entries."""
        count = len(self.classes)
        scores = torch.cat([torch.zeros(0, count, dtype=torch.float64), *self._scores])
        if self.multi_label:
            target = torch.cat([torch.zeros(0, count, dtype=torch.float64), *self._targets])
            return scores, target == 1, scores > 0.5, target != -1
        target = torch.cat([torch.zeros(0, dtype=torch.float64), *self._targets]).long()
        scores, target = scores[target >= 0], target[target >= 0]
        truth = torch.nn.functional.one_hot(target, count).bool()
        decided = torch.nn.functional.one_hot(scores.argmax(1), count).bool()
        return scores, truth, decided, torch.ones_like(truth)

    def _per_class(self) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"], Int64[Tensor, " C"]]:
        """F1, AUROC and positives; nan where undefined."""
        scores, truth, decided, known = self._tables()
        positives = (truth & known).sum(0)
        hits = (truth & decided & known).sum(0)
        f1 = 2 * hits.double() / (positives + (decided & known).sum(0))
        auroc = torch.stack([_auroc(scores[known[:, c], c], truth[known[:, c], c]) for c in range(len(self.classes))])
        return f1, auroc, positives

    def compute(self) -> dict[str, float]:
        _, truth, decided, known = self._tables()
        f1, auroc, positives = self._per_class()
        if self.multi_label:
            right, total = ((truth == decided) & known).sum(), known.sum()
        else:
            right, total = (truth & decided).sum(), torch.tensor(len(truth))
            auroc = auroc[1:] if len(self.classes) == 2 else auroc
        return {
            "accuracy": float(right.double() / total),
            "macro_f1": float(f1[positives > 0].mean()),
            "auroc": float(auroc[~auroc.isnan()].mean()),
        }

    def details(self) -> dict[str, Any]:
        """`per_class` {name: {f1, auroc, count}} of the classes in the truth, `absent_classes` of the others and, for
        single-label, `confusion`: rows true, columns decided. An undefined auroc is None."""
        f1, auroc, positives = self._per_class()
        rows = zip(self.classes, f1.tolist(), auroc.tolist(), positives.tolist(), strict=True)
        table = {name: {"f1": f, "auroc": None if a != a else a, "count": n} for name, f, a, n in rows if n > 0}
        details: dict[str, Any] = {"per_class": table, "absent_classes": [c for c in self.classes if c not in table]}
        if not self.multi_label:
            _, truth, decided, _ = self._tables()
            details["confusion"] = (truth.long().T @ decided.long()).tolist()
        return details

    def merge(self, other: Metric) -> None:
        assert isinstance(other, ClassificationMetric)
        self._scores += other._scores
        self._targets += other._targets


def _auroc(scores: Float[Tensor, " n"], truth: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mann-Whitney statistic with mean ranks for ties; nan without both outcomes or with a nan score."""
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives or scores.isnan().any():
        return torch.tensor(float("nan"), dtype=torch.float64)
    _, inverse, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0).double() - (counts - 1) / 2)[inverse]
    return (ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives)
