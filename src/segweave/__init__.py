"""segweave: one network, one shared encoder, several vision tasks. Importing it imports no torch (PEP 562)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PLACES = {"MultiTaskModel": "model", "create_model": "model", "fit": "train", "read_config": "schema"}
_ROOMS = ("balancing", "build", "data", "decoders", "losses", "predict", "regularizers", "tasks")
__all__ = ["MultiTaskModel", "balancing", "build", "create_model", "fit", "predict", "read_config", "tasks"]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"segweave.{name}")
    if name in _PLACES:
        return getattr(import_module(f"segweave.{_PLACES[name]}"), name)
    if name == "__version__":
        return import_module("importlib.metadata").version("segweave")
    raise AttributeError(f"module 'segweave' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_ROOMS, *_PLACES, "__version__"})


if TYPE_CHECKING:
    from segweave import balancing as balancing
    from segweave import build as build
    from segweave import data as data
    from segweave import predict as predict
    from segweave import tasks as tasks
    from segweave.model import MultiTaskModel as MultiTaskModel
    from segweave.model import create_model as create_model
    from segweave.schema import read_config as read_config
    from segweave.train import fit as fit
