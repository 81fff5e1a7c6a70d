"""Regularisers by config name: the R_i of `min sum_i alpha_i L_i + beta_i R_i`."""

from typing import TYPE_CHECKING

from segweave.catalogue import Catalogue

REGULARIZERS = Catalogue(
    "regularizer",
    __name__,
    {
        "weight_decay": "WeightDecay",
        "feature_norm": "FeatureNorm",
        "smoothness": "Smoothness",
        "flip_consistency": "FlipConsistency",
        "orthogonality": "Orthogonality",
    },
)
__getattr__ = REGULARIZERS.attribute

if TYPE_CHECKING:
    from segweave.regularizers.feature_norm import FeatureNorm as FeatureNorm
    from segweave.regularizers.flip_consistency import FlipConsistency as FlipConsistency
    from segweave.regularizers.orthogonality import Orthogonality as Orthogonality
    from segweave.regularizers.smoothness import Smoothness as Smoothness
    from segweave.regularizers.weight_decay import WeightDecay as WeightDecay
