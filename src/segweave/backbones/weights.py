"""Encoder weights from a file: which tensors fit, and a report that a person can read."""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from segweave.errors import ConfigError

_DEPTH = 5
"""Levels of names in which the encoder is looked for, as deep as `state_dict.module.backbone.body.model`."""


@dataclass(frozen=True)
class Matched:
    """What a weights file gave an encoder: tensor names by fate. `str` tells it in one to six short lines.

    Args:
        source: the file.
        prefix: under which the encoder's names were found in it, with its last dot; empty for none.
        loaded: taken as they are; `adapted` ones are among them.
        adapted: first convolutions whose weights were spread over another number of bands.
        missing: not in the file, left as initialised.
        reshaped: in the file with another shape, left as initialised.
        unused: in the file only, such as a classifier.
    """

    source: str
    prefix: str
    loaded: Sequence[str]
    adapted: Sequence[str]
    missing: Sequence[str]
    reshaped: Sequence[str]
    unused: Sequence[str]

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.reshaped)
        first = f"{len(self.loaded)} of {total} encoder tensors loaded from {self.source}"
        if self.prefix:
            first += f", from its {self.prefix}*"
        if len(self.loaded) < total / 2:
            first += "; fewer than half: is the file of another encoder?"
        lines = [first]
        for label, names in (
            ("fitted to the number of bands", self.adapted),
            ("not in the file, left as initialised", self.missing),
            ("of another shape, left as initialised", self.reshaped),
            ("in the file but not used", self.unused),
        ):
            if names:
                lines.append(f"{label}: {grouped(names)}")
        return "\n  ".join(lines)


def grouped(names: Sequence[str], groups: int = 4) -> str:
    """Tensor names by module, with counts, at the finest depth that gives few groups.

    >>> grouped(["fc.weight", "fc.bias"])
    'fc.* (2)'
    >>> grouped(["a.0.w", "a.0.b", "a.1.w", "b.w"], groups=2)
    'a.* (3), b.w'
    """
    modules = {name: (name.split(" ")[0].split(".")[:-1] or [name]) for name in names}
    under: dict[str, list[str]] = {}
    for depth in range(max(map(len, modules.values())), 0, -1):
        under = {}
        for name, parts in modules.items():
            under.setdefault(".".join(parts[:depth]), []).append(name)
        if len(under) <= groups:
            break
    shown = [f"{module}.* ({len(n)})" if len(n) > 1 else n[0] for module, n in list(under.items())[:groups]]
    rest = len(names) - sum(len(n) for n in list(under.values())[:groups])
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def load_weights(body: nn.Module, path: Path, bands: int = 3) -> Matched:
    """Copies every tensor whose name and shape fit into an encoder, and reports the fate of all names.

    The names may stand under any prefix, such as `module.` or `state_dict.model.backbone.`; the one under which most
    tensors fit is taken. They are compared with `.` as `_`, because timm renames modules where it cuts. A first
    convolution for RGB is fitted to another number of bands as timm does it. Values are converted to the encoder's
    type of number.

    Args:
        body: a timm model with `features_only`.
        path: `.safetensors`, or a PyTorch file, from which no code is ever run.
        bands: input channels of the encoder.

    Raises:
        ConfigError: the file is missing, is not weights, holds numbers that are not finite, or nothing in it fits.
    """
    given = _read(path)
    # A wrapper of timm's around the whole model adds its own attribute's name, which no file has.
    children = [name for name, _ in body.named_children()]
    wrapper = f"{children[0]}." if len(children) == 1 else ""
    own = {key: value for key, value in body.state_dict().items() if not key.endswith("num_batches_tracked")}
    by_plain = {_plain(key.removeprefix(wrapper)): key for key in own}
    prefix = _best_prefix(given, {plain: own[key] for plain, key in by_plain.items()}, bands)
    inside = {_plain(key[len(prefix) :]): key for key in given if key.startswith(prefix)}
    loaded, adapted, missing, reshaped = [], [], [], []
    for plain, key in by_plain.items():
        if plain not in inside:
            missing.append(key)
            continue
        tensor, value = given[inside[plain]], own[key]
        shapes = f"{key} ({_shape(tensor)} for {_shape(value)})"
        if not _fits(tensor, value, bands):
            reshaped.append(shapes)
            continue
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ConfigError(f"model.pretrained: {path}: {inside[plain]} holds numbers that are not finite")
        if tensor.shape != value.shape:
            adapted.append(shapes)
            tensor = adapt_input_conv(bands, tensor)
        value.copy_(tensor)
        loaded.append(key)
    if not loaded:
        raise ConfigError(
            f"model.pretrained: {path}: none of its {len(given)} tensors fits this encoder; the file has "
            f"{', '.join(list(given)[:3])}; the encoder expects {', '.join(list(own)[:3])}"
        )
    used = {inside[plain] for plain in by_plain if plain in inside}
    unused = [key for key in given if key not in used and not key.endswith("num_batches_tracked")]
    return Matched(path.name, prefix, loaded, adapted, missing, reshaped, unused)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ConfigError(f"model.pretrained: {path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ConfigError(
            f"model.pretrained: {path}: not a weights file, or one that would have to run code, which is refused; "
            "expected .safetensors, or a state_dict saved with torch.save"
        ) from None
    except (SafetensorError, Exception) as error:  # damaged bytes raise nearly anything
        found = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"model.pretrained: {path}: not a weights file: {found}") from None
    tensors = dict(_flatten(state, ""))
    if not tensors:
        raise ConfigError(
            f"model.pretrained: {path}: holds {type(state).__name__}; expected tensors by name, as a state_dict is"
        )
    return tensors


def _flatten(state: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(state, Mapping):
        return
    for key, value in state.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        else:
            yield from _flatten(value, f"{prefix}{key}.")


def _best_prefix(given: Mapping[str, Tensor], own: Mapping[str, Tensor], bands: int) -> str:
    """The prefix with most fitting tensors; among equals an averaged network's, then the shortest, then the first."""
    fitting: defaultdict[str, int] = defaultdict(int)
    for key, tensor in given.items():
        parts = key.split(".")
        for depth in range(min(_DEPTH, len(parts) - 1) + 1):
            value = own.get(_plain(".".join(parts[depth:])))
            fitting["".join(f"{part}." for part in parts[:depth])] += value is not None and _fits(tensor, value, bands)
    return max(fitting, key=lambda prefix: (fitting[prefix], "ema" in prefix, -len(prefix)), default="")


def _fits(tensor: Tensor, value: Tensor, bands: int) -> bool:
    if tensor.shape == value.shape:
        return True
    stem = tensor.ndim == value.ndim == 4 and tensor.shape[1] == 3 and value.shape[1] == bands
    return stem and tensor.shape[0] == value.shape[0] and tensor.shape[2:] == value.shape[2:]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _plain(key: str) -> str:
    return key.replace(".", "_")
