"""Samplings by config name: which images make each step of an epoch."""

from typing import TYPE_CHECKING

from segweave.catalogue import Catalogue

SAMPLINGS = Catalogue(
    "sampling",
    __name__,
    {
        "proportional": "Proportional",
        "uniform": "Uniform",
        "temperature": "Temperature",
        "round_robin": "RoundRobin",
        "tasks": "Tasks",
        "repeat_factor": "RepeatFactor",
    },
)
__getattr__ = SAMPLINGS.attribute

if TYPE_CHECKING:
    from segweave.data.sampling.proportional import Proportional as Proportional
    from segweave.data.sampling.repeat_factor import RepeatFactor as RepeatFactor
    from segweave.data.sampling.round_robin import RoundRobin as RoundRobin
    from segweave.data.sampling.tasks import Tasks as Tasks
    from segweave.data.sampling.temperature import Temperature as Temperature
    from segweave.data.sampling.uniform import Uniform as Uniform
