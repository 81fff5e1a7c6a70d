"""Accuracy, macro F1 and AUROC of whole-image labels, over a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from segweave.metrics.metric import Metric, copy


class _Tables(NamedTuple):
    """Everything seen, one row an image; for single-label only the images whose class is known."""

    scores: Float[Tensor, "n C"]
    truth: Bool[Tensor, "n C"]
    decided: Bool[Tensor, "n C"]
    known: Bool[Tensor, "n C"]
    invalid: Bool[Tensor, "n C"]


class ClassificationMetric(Metric):
    """accuracy, macro_f1, auroc and `invalid`, between 0 and 1; decided by argmax, or multi-label by a score above 0.5.

    Accuracy of multi-label is the share of known entries that are right. macro_f1 is the mean of F1 over the classes
    that occur in the truth (J. Opitz & S. Burst, Macro F1 and macro F1, 2019, equation 2). auroc is exact, with ties by
    mean ranks (H. Mann & D. Whitney 1947, the U statistic divided by the number of pairs): the mean of one-vs-rest over
    the classes with both outcomes; with two single-label classes it is that of the second. A score that is NaN is wrong
    whatever the truth, in all three: for single-label its image decides for no class, for multi-label its entry decides
    against the truth. `invalid` is their share of the known images or entries. Every score is kept until `reset`.

    Args:
        classes: names.
        multi_label: targets are 0 / 1 per class (-1 unknown) instead of one class index (-1 unknown).
    """

    keys: ClassVar[Mapping[str, bool]] = {"accuracy": True, "macro_f1": True, "auroc": True, "invalid": False}

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
        self._scores.append(copy(prediction["scores"]))
        self._targets.append(copy(target))

    def _tables(self) -> _Tables:
        count = len(self.classes)
        scores = torch.cat([torch.zeros(0, count, dtype=torch.float64), *self._scores])
        if self.multi_label:
            target = torch.cat([torch.zeros(0, count, dtype=torch.float64), *self._targets])
            truth, known, invalid = target == 1, target != -1, scores.isnan()
            decided = torch.where(invalid, ~truth, scores > 0.5)
        else:
            target = torch.cat([torch.zeros(0, dtype=torch.float64), *self._targets]).long()
            scores, target = scores[target >= 0], target[target >= 0]
            truth = torch.nn.functional.one_hot(target, count).bool()
            known = torch.ones_like(truth)
            invalid = scores.isnan().any(1, keepdim=True).expand_as(scores)
            decided = torch.nn.functional.one_hot(scores.argmax(1), count).bool() & ~invalid
        # the worst score there is: below every positive, above every negative
        worst = torch.where(truth, -torch.inf, torch.inf).to(scores)
        return _Tables(torch.where(invalid, worst, scores), truth, decided, known, invalid)

    def _per_class(self, seen: _Tables) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"], Int64[Tensor, " C"]]:
        """F1, AUROC and positives; nan where undefined."""
        positives = (seen.truth & seen.known).sum(0)
        hits = (seen.truth & seen.decided & seen.known).sum(0)
        f1 = 2 * hits.double() / (positives + (seen.decided & seen.known).sum(0))
        columns = zip(seen.scores.T, seen.truth.T, seen.known.T, strict=True)
        auroc = torch.stack([_auroc(scores[known], truth[known]) for scores, truth, known in columns])
        return f1, auroc, positives

    def compute(self) -> dict[str, float]:
        seen = self._tables()
        f1, auroc, positives = self._per_class(seen)
        right = seen.truth == seen.decided
        known = seen.known
        if not self.multi_label:
            # an image is one answer, not one per class
            right, known = right.all(1, keepdim=True), known[:, :1]
            auroc = auroc[1:] if len(self.classes) == 2 else auroc
        total = known.sum().double()
        return {
            "accuracy": float((right & known).sum() / total),
            "macro_f1": float(f1[positives > 0].mean()),
            "auroc": float(auroc[~auroc.isnan()].mean()),
            "invalid": float((seen.invalid[:, : known.shape[1]] & known).sum() / total),
        }

    def details(self) -> dict[str, Any]:
        """`per_class` {name: {f1, auroc, count}} of the classes in the truth, `absent_classes` of the others and, for
        single-label, `confusion`: rows true, columns decided, the last one for images without a decision. An undefined
        auroc is None."""
        seen = self._tables()
        f1, auroc, positives = self._per_class(seen)
        rows = zip(self.classes, f1.tolist(), auroc.tolist(), positives.tolist(), strict=True)
        table = {name: {"f1": f, "auroc": None if a != a else a, "count": n} for name, f, a, n in rows if n > 0}
        details: dict[str, Any] = {"per_class": table, "absent_classes": [c for c in self.classes if c not in table]}
        if not self.multi_label:
            columns = torch.cat([seen.decided, seen.invalid[:, :1]], 1)
            details["confusion"] = (seen.truth.long().T @ columns.long()).tolist()
        return details

    def merge(self, other: Metric) -> None:
        assert isinstance(other, ClassificationMetric)
        self._scores += other._scores
        self._targets += other._targets


def _auroc(scores: Float[Tensor, " n"], truth: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mann-Whitney statistic with mean ranks for ties; nan without both outcomes."""
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return torch.tensor(float("nan"), dtype=torch.float64)
    _, inverse, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0).double() - (counts - 1) / 2)[inverse]
    return (ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives)
