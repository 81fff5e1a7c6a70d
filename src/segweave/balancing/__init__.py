"""Balancing methods by config name: how the task losses become one update of the shared network."""

from typing import TYPE_CHECKING

from segweave.catalogue import Catalogue

METHODS = Catalogue(
    "balancing method",
    __name__,
    {"equal": "Equal", "uncertainty": "Uncertainty"},
    base="segweave.balancing.balancer:GramianBalancer",  # methods that take `**options` have its `space` too
)
__getattr__ = METHODS.attribute

if TYPE_CHECKING:
    from segweave.balancing.equal import Equal as Equal
    from segweave.balancing.uncertainty import Uncertainty as Uncertainty
