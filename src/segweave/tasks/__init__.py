"""Task kinds by config name. Everything particular to a kind lives in its one file."""

from typing import TYPE_CHECKING

from segweave.catalogue import Catalogue

TASKS = Catalogue(
    "task kind",
    __name__,
    {
        "semantic": "Semantic",
        "classification": "Classification",
        "detection": "Detection",
        "depth": "Depth",
        "normals": "Normals",
        "edges": "Edges",
    },
    base="segweave.tasks.task:Task",
)
__getattr__ = TASKS.attribute

if TYPE_CHECKING:
    from segweave.tasks.classification import Classification as Classification
    from segweave.tasks.depth import Depth as Depth
    from segweave.tasks.detection import Detection as Detection
    from segweave.tasks.edges import Edges as Edges
    from segweave.tasks.normals import Normals as Normals
    from segweave.tasks.semantic import Semantic as Semantic
