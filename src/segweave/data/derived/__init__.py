"""Ways by config name to make the labels of a task of the labels of another."""

from typing import TYPE_CHECKING

from segweave.catalogue import Catalogue

DERIVATIONS = Catalogue(
    "derivation",
    __name__,
    {
        "boundary": "Boundary",
        "boxes": "ComponentBoxes",
        "merge": "Merge",
        "count": "Count",
        "distance": "Distance",
        "normals": "PlaneNormals",
    },
)
__getattr__ = DERIVATIONS.attribute

if TYPE_CHECKING:
    from segweave.data.derived.boundary import Boundary as Boundary
    from segweave.data.derived.boxes import ComponentBoxes as ComponentBoxes
    from segweave.data.derived.count import Count as Count
    from segweave.data.derived.distance import Distance as Distance
    from segweave.data.derived.merge import Merge as Merge
    from segweave.data.derived.normals import PlaneNormals as PlaneNormals
