"""Interactions by config name: what the tasks share and how they exchange features."""

from typing import TYPE_CHECKING

from segweave.catalogue import Catalogue

INTERACTIONS = Catalogue("interaction", __name__, {"shared": "Shared"})
__getattr__ = INTERACTIONS.attribute

if TYPE_CHECKING:
    from segweave.interactions.shared import Shared as Shared
