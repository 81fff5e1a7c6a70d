"""segweave: one network, one shared encoder, several vision tasks. Importing it imports no torch (PEP 562)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PLACES = {
    "create_model": "build",
    "train": "build",
    "evaluate_run": "build",
    "load_model": "build",
    "save_model": "build",
    "fit": "train",
    "read_config": "schema",
}
_FOLDERS = ("balancing", "data", "decoders", "losses", "regularizers", "tasks")
__all__ = ["balancing", "create_model", "fit", "load_model", "read_config", "save_model", "tasks"]


def __getattr__(name: str) -> Any:
    if name in _FOLDERS:
        return import_module(f"segweave.{name}")
    if name in _PLACES:
        return getattr(import_module(f"segweave.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'segweave' has no attribute {name!r}")


if TYPE_CHECKING:
    from segweave import balancing as balancing
    from segweave import data as data
    from segweave import tasks as tasks
    from segweave.build import create_model as create_model
    from segweave.build import load_model as load_model
    from segweave.build import save_model as save_model
    from segweave.schema import read_config as read_config
    from segweave.train import fit as fit
