"""Flip consistency: a mirrored image has the mirrored prediction (Laine & Aila 2017, algorithm 1)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from segweave.regularizers.regularizer import Part, Regularizer


class FlipConsistency(Regularizer):
    """Mean squared difference of a task's prediction and the mirrored one of the mirrored image, at least 0.

    It costs a SECOND FORWARD of the whole network on every image of a step, and the backward of it, so about twice the
    time and memory; that forward is run once, however many tasks are made consistent. Predictions are the
    probabilities of classes, per pixel or per image, the logarithm of depth, or unit normals, whose x
    changes sign in the mirror; the mean runs over all their entries.
    Both sides have a gradient. Needs no labels: the heads run on all images. Batch normalisation takes the mirrored
    images' own statistics, but its running ones count an image once. S. Laine & T. Aila, Temporal ensembling for
    semi-supervised learning (2017), algorithm 1, the unsupervised term, with a flip as the augmentation.
    """

    fits = ("map", "scores")
    soft = True
    twice = True

    def forward(self, part: Part) -> Float[Tensor, ""]:
        return (part.soft() - part.mirrored()).square().mean()
