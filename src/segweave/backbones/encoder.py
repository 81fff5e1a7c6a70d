"""Any timm encoder as a feature pyramid, with its weights taken from timm, a file or chance."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from segweave.errors import ConfigError, nearest


@dataclass(frozen=True)
class Matched:
    """What a weights file gave an encoder: tensor names by fate."""

    loaded: Sequence[str]
    missing: Sequence[str]
    unused: Sequence[str]
    reshaped: Sequence[str]

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.reshaped)
        lines = [f"{len(self.loaded)} of {total} encoder tensors loaded"]
        for label, names in (
            ("left as initialised", self.missing),
            ("of another shape", self.reshaped),
            ("in the file but not used", self.unused),
        ):
            if names:
                lines.append(f"{len(names)} {label}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}")
        return "; ".join(lines)


class Encoder(nn.Module):
    """A timm model cut into a pyramid.

    Args:
        name: any timm model name.
        pretrained: timm's own weights, none, or a `.safetensors` / `.pth` file (read without running code from it).
        options: passed to `timm.create_model`, such as `pad_type`, `bn_eps`, `out_indices`.
        in_channels: bands of the images.

    Attributes:
        channels, strides, names: of the levels, finest first.
        matched: the report on a weights file; None without one.

    Raises:
        ConfigError: an unknown encoder or option, or a file that is not weights or fits none of the tensors.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool | str = False,
        options: Mapping[str, Any] | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if not timm.is_model(name.split(".")[0]):
            known = nearest(name, timm.list_models(), 3)
            raise ConfigError(f"model.backbone: unknown timm encoder {name!r}; nearest: {known}")
        settings = {"features_only": True, "in_chans": in_channels, **(options or {})}
        try:
            self.body = timm.create_model(name, pretrained=pretrained is True, **settings)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise ConfigError(f"model.backbone: {name} cannot be built with {dict(settings)}: {error}") from None
        info: Any = self.body.feature_info
        self.channels: list[int] = list(info.channels())
        self.strides: list[int] = list(info.reduction())
        self.names: list[str] = list(info.module_name())
        config = timm.get_pretrained_cfg(name)
        mean, std = (config.mean, config.std) if config else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.mean = list(mean) if len(mean) == in_channels else [0.5] * in_channels
        self.std = list(std) if len(std) == in_channels else [0.25] * in_channels
        self._channels_last = getattr(self.body, "output_fmt", None) == "NHWC" or str(
            getattr(self.body, "output_fmt", "")
        ).endswith("NHWC")
        self.matched = load_weights(self.body, Path(pretrained)) if isinstance(pretrained, str) else None

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images [B, C, H, W] to levels [B, C_i, H/s_i, W/s_i], finest first."""
        levels = self.body(images)
        return [level.permute(0, 3, 1, 2) for level in levels] if self._channels_last else list(levels)

    def level(self, name: str) -> int:
        """Index of a level by `encoder` (the last), `stride16` or timm's module name. Raises ConfigError."""
        if name == "encoder":
            return len(self.names) - 1
        if name in self.names:
            return self.names.index(name)
        strides = [f"stride{stride}" for stride in self.strides]
        if name in strides:
            return len(strides) - 1 - strides[::-1].index(name)
        known = ["decoder", "encoder", *strides, *self.names]
        raise ConfigError(f"at: {name!r} is no level of this encoder; expected one of {', '.join(known)}")


def load_weights(body: nn.Module, path: Path) -> Matched:
    """Copies every tensor whose name and shape fit into an encoder, and reports the fate of all names.

    Names are compared without wrapper prefixes and with `.` as `_`, because timm renames modules where it cuts.

    Raises:
        ConfigError: the file is missing, is not weights, or nothing in it fits.
    """
    if not path.is_file():
        raise ConfigError(f"model.pretrained: {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        found = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"model.pretrained: {path}: not a weights file: {found}") from None
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    given = {_plain(key): (key, value) for key, value in state.items() if isinstance(value, Tensor)}
    own = body.state_dict()
    loaded, missing, reshaped, used = [], [], [], set()
    for key, value in own.items():
        if _plain(key) not in given:
            missing.append(key)
            continue
        used.add(_plain(key))
        tensor = given[_plain(key)][1]
        if tensor.shape == value.shape:
            value.copy_(tensor)
            loaded.append(key)
        else:
            reshaped.append(f"{key} {list(tensor.shape)} for {list(value.shape)}")
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if not loaded:
        raise ConfigError(f"model.pretrained: {path}: none of its {len(given)} tensors fits this encoder")
    return Matched(loaded, missing, [name for plain, (name, _) in given.items() if plain not in used], reshaped)


def _plain(key: str) -> str:
    for prefix in ("module.", "model.", "encoder.", "backbone.", "body."):
        key = key.removeprefix(prefix)
    return key.replace(".", "_")
