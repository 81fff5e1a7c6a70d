"""Weights and training state as safetensors: written at once or not at all, hashed, read without running code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from segweave.atomic import whole_file
from segweave.errors import CheckpointError

# what a run keeps of the same make; a training state alone has optimizer and counters
_STANDS_IN = {
    "state.safetensors": "previous.safetensors",
    "best.safetensors": "last.safetensors",
    "last.safetensors": "best.safetensors",
}


def save(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], *, keep: Path | None = None) -> None:
    """Writes tensors and JSON metadata into one file, which replaces the old one only when it is complete.

    Args:
        keep: where the old file goes instead of being deleted.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written to; the old file is as it was.
    """
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    text = json.dumps(meta)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, keep) as temporary:
            save_file(plain, temporary, {"segweave": text, "sha256": _digest(plain, text)})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}; what was saved before is intact") from None


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file that `save` wrote.

    Raises:
        CheckpointError: missing, damaged, or not a segweave file; it names the file of the run that is whole.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        return _load(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_instead(path)}") from None


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from None
    if "segweave" not in header:
        raise CheckpointError(f"{path}: not written by segweave; expected its metadata in the header")
    if header.get("sha256") != _digest(tensors, header["segweave"]):
        raise CheckpointError(f"{path}: its contents do not match their hash")
    return tensors, json.loads(header["segweave"])


def _instead(path: Path) -> str:
    """The file of a run that can take the place of a damaged one, where there is one and it is whole."""
    other = path.with_name(_STANDS_IN.get(path.name, path.name))
    if other == path or not other.is_file():
        return ""
    try:
        step = _load(other)[1].get("step")
    except CheckpointError:
        return f"; nor is {other} whole"
    return f"; {other} is whole{'' if step is None else f' (step {step})'}: copy it to {path.name} to use it instead"


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for key in sorted(tensors):
        tensor = tensors[key].contiguous()
        digest.update(repr((key, str(tensor.dtype), list(tensor.shape))).encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
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
