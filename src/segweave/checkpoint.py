"""Weights and training state as safetensors: written at once or not at all, hashed, read without running code."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from segweave.errors import CheckpointError


def save(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes tensors and JSON metadata into one file, which replaces the old one only when it is complete."""
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(plain, temporary, {"segweave": json.dumps(meta), "sha256": _digest(plain)})
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: cannot be written: {error}") from None


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file that `save` wrote.

    Raises:
        CheckpointError: missing, damaged, or not a segweave file.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from None
    if "segweave" not in header:
        raise CheckpointError(f"{path}: not written by segweave; expected its metadata in the header")
    if header.get("sha256") != _digest(tensors):
        raise CheckpointError(f"{path}: its contents do not match their hash; use another checkpoint of the run")
    return tensors, json.loads(header["segweave"])


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(tensors[key].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def flatten(state: Any, prefix: str, tensors: dict[str, Tensor]) -> Any:
    """Nested state as JSON, its tensors moved into `tensors` under a name that stands in their place."""
    if isinstance(state, Tensor):
        tensors[prefix] = state
        return {"$tensor": prefix}
    if isinstance(state, Mapping):
        return {"$dict": [[key, flatten(value, f"{prefix}.{key}", tensors)] for key, value in state.items()]}
    if isinstance(state, list | tuple):
        return [flatten(value, f"{prefix}.{i}", tensors) for i, value in enumerate(state)]
    return state


def restore(state: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `flatten`."""
    if isinstance(state, dict) and "$tensor" in state:
        return tensors[state["$tensor"]]
    if isinstance(state, dict):
        return {key: restore(value, tensors) for key, value in state["$dict"]}
    if isinstance(state, list):
        return [restore(value, tensors) for value in state]
    return state
