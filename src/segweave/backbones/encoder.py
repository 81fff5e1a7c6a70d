"""Any timm encoder as a feature pyramid, with its weights taken from timm, a file or chance."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from segweave.backbones.backbone import Backbone
from segweave.backbones.simple_pyramid import SimplePyramid
from segweave.backbones.weights import load_weights
from segweave.errors import ConfigError, nearest

_OURS = {
    "features_only": "it is always true",
    "in_chans": "it follows from the data",
    "pretrained": "write model.pretrained",
    "checkpoint_path": "write model.pretrained: path",
    "pretrained_cfg": "write model.pretrained, model.mean and model.std",
    "pretrained_cfg_overlay": "write model.pretrained, model.mean and model.std",
}
_ANY_SIZE = {"dynamic_img_size": True, "strict_img_size": False}
"""What makes plain and windowed transformers take any size; a model that lacks one refuses it by name."""


class Encoder(Backbone):
    """A timm model cut into a pyramid whose levels have exactly the declared channels and strides.

    A plain encoder, whose levels all have one stride, gets a simple pyramid on its last one, unless `out_indices` asks
    for the levels as they are. One that takes images of a single size only runs on tiles of that size, which
    `img_size` changes. Both its levels and what sizes it takes are tried out once, on a small image.

    Args:
        name: any timm model name, with timm's tag of its weights or without.
        pretrained: timm's own weights, none, or a `.safetensors` / `.pth` file (read without running code from it).
        options: passed to `timm.create_model`, such as `pad_type`, `bn_eps`, `out_indices`, `img_size`.
        in_channels: bands of the images.

    Attributes:
        names: timm's module names.
        tile: (height, width) of the tiles that it runs on; None where it takes whole images.
        mean, std: what timm states for the weights; in its order over and over for other bands than RGB.

    Raises:
        ConfigError: an unknown encoder or option, weights that cannot be had, a file that is not weights or fits none
            of the tensors, or an encoder whose maps do not line up with the image.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool | str = False,
        options: Mapping[str, Any] | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        options = dict(options or {})
        self.body = _build(name, pretrained is True, options, in_channels)
        _drop_unread_blocks(self.body)
        info: Any = self.body.feature_info
        channels, strides = list(info.channels()), list(info.reduction())
        self.names = list(info.module_name())
        self._channels_last = str(getattr(self.body, "output_fmt", "")).endswith("NHWC")
        if isinstance(pretrained, str):
            self.matched = load_weights(self.body, Path(pretrained).expanduser(), in_channels)
        config: Any = timm.get_pretrained_cfg(name)
        mean, std = (config.mean, config.std) if config else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.mean, self.std = _bands(mean, in_channels), _bands(std, in_channels)
        self.pyramid: SimplePyramid | None = None
        if len(set(strides)) == 1 and len(strides) > 1 and "out_indices" not in options:
            self.pyramid = SimplePyramid(channels[-1], strides[-1])
            self.names = [f"pyramid{stride}" for stride in self.pyramid.strides]
            self.names[self.pyramid.native] = info.module_name()[-1]
        self.channels = self.pyramid.channels if self.pyramid else channels
        self.strides = self.pyramid.strides if self.pyramid else strides
        self.tile: tuple[int, int] | None = None
        self.size_multiple = (1, 1)
        self._find_sizes(name, in_channels, _native_size(options, config))

    def forward(self, images: Tensor) -> list[Tensor]:
        if self.tile is None:
            levels = self._run(images)
        else:
            rows, columns = images.shape[-2] // self.tile[0], images.shape[-1] // self.tile[1]
            tiles = images.unflatten(3, (columns, self.tile[1])).unflatten(2, (rows, self.tile[0]))
            levels = self._run(tiles.permute(0, 2, 4, 1, 3, 5).flatten(0, 2))
            whole = [level.unflatten(0, (-1, rows, columns)).permute(0, 3, 1, 4, 2, 5) for level in levels]
            levels = [level.flatten(4, 5).flatten(2, 3) for level in whole]
        return self.pyramid(levels[-1]) if self.pyramid else levels

    def _run(self, images: Tensor) -> list[Tensor]:
        levels = self.body(images)
        return [level.permute(0, 3, 1, 2) for level in levels] if self._channels_last else list(levels)

    @property
    def last(self) -> int:
        return self.pyramid.native if self.pyramid else len(self.names) - 1

    def _find_sizes(self, name: str, in_channels: int, native: tuple[int, int]) -> None:
        """Sets `size_multiple`, and `tile` if need be, to what the encoder is found to take."""
        step = math.lcm(*self.strides)
        # windows are 1, 2 or native / stride positions wide, as timm derives them
        multiples = [(step, step), (2 * step, 2 * step)]
        if native[0] % step == 0 and native[1] % step == 0:
            multiples.append(native)

        def whole() -> str | None:
            problem = None
            for self.size_multiple in multiples:
                # odd numbers of multiples, coprime to native / multiple: no narrower window can fit them by chance
                small = [m * (1 if m >= 2 * max(self.strides) else 3) for m in self.size_multiple]
                large = [m * (2 * math.ceil(n / m) + 1) for n, m in zip(native, self.size_multiple, strict=True)]
                found = self._try(in_channels, small[0], large[1]) or self._try(in_channels, large[0], small[1])
                if found is None:
                    return None
                problem = problem or found
            return problem

        def tiled() -> str | None:
            self.tile = self.size_multiple = native
            problem = self._try(in_channels, *native)
            self.tile = None if problem else native
            return problem

        def same() -> str | None:
            return whole() if _pad(self.body) else "no"

        attempts: Sequence[Callable[[], str | None]] = (whole, tiled, same)
        problems = []
        for attempt in attempts:
            problems.append(attempt())
            if problems[-1] is None:
                return
        raise ConfigError(
            f"model.backbone: {name} gives no maps that line up with the image: of {native[0]}x{native[1]} pixels, "
            f"{problems[1]}; the nearest name of another family is {_alternative(name)}"
        )

    @torch.no_grad()
    def _try(self, in_channels: int, height: int, width: int) -> str | None:
        """What is wrong with the levels of a black image of this size; None if they are as declared."""
        first = next(self.body.parameters())
        training = self.training
        self.eval()
        try:
            levels = self(torch.zeros(1, in_channels, height, width, device=first.device, dtype=first.dtype))
        except Exception as error:  # timm's models refuse a size in any way they like
            return str(error).splitlines()[0] if str(error) else type(error).__name__
        finally:
            self.train(training)
        for level, channels, stride in zip(levels, self.channels, self.strides, strict=True):
            if tuple(level.shape[1:]) != (channels, height / stride, width / stride):
                found = "x".join(map(str, level.shape[1:]))
                return f"found a map of {found}, expected {channels}x{height / stride:g}x{width / stride:g}"
        return None


def _build(name: str, pretrained: bool, options: Mapping[str, Any], in_channels: int) -> Any:
    if not timm.is_model(name.split(".")[0]):
        known = nearest(name, timm.list_models(), 3)
        raise ConfigError(f"model.backbone: unknown timm encoder {name!r}; nearest: {known}")
    for key in options:
        if key in _OURS:
            raise ConfigError(f"model.backbone_options.{key}: not to be set here; {_OURS[key]}")
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    extra: dict[str, Any] = {key: value for key, value in _ANY_SIZE.items() if key not in given}
    while True:
        try:
            return timm.create_model(
                name, pretrained=pretrained, features_only=True, in_chans=in_channels, **extra, **given
            )
        except Exception as error:  # of the model's own, of the Hub's and of the network's many kinds
            refused = [key for key in extra if isinstance(error, TypeError) and key in str(error)]
            if not refused:
                raise _explained(error, name, pretrained, options) from None
            extra.pop(refused[0])


def _drop_unread_blocks(body: Any) -> None:
    """Cuts what timm's MobileNets and EfficientNets would compute after their last level for nothing."""
    module, _, index = body.feature_info.module_name()[-1].rpartition(".")
    blocks = getattr(body, "blocks", None)
    if module == "blocks" and isinstance(blocks, nn.Sequential) and index.isdigit():
        body.blocks = blocks[: int(index) + 1]


def _explained(error: Exception, name: str, pretrained: bool, options: Mapping[str, Any]) -> ConfigError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "features_only" in reason:
        return ConfigError(
            f"model.backbone: timm gives no feature maps of {name}; the nearest name of another family is "
            f"{_alternative(name)}"
        )
    if "pretrained tag" in reason:
        tags = timm.list_pretrained(name.split(".")[0] + ".*")
        return ConfigError(f"model.backbone: {reason} timm has {', '.join(tags) or 'none for it'}")
    if pretrained and (isinstance(error, OSError) or "retrained weights" in reason):
        return ConfigError(
            f"model.pretrained: timm's weights for {name} are not to be had: {reason} Give the path of a .safetensors "
            "or .pth file, or false"
        )
    return ConfigError(f"model.backbone: {name} cannot be built with backbone_options {dict(options)}: {reason}")


def _alternative(name: str) -> str:
    """The most similar name, of another file of timm's, that has feature maps."""
    family = timm.model_entrypoint(name.split(".")[0]).__module__.rpartition(".")[2]
    others = sorted(set(timm.list_models()) - set(timm.list_models(module=family)))
    for other in difflib.get_close_matches(name, others, n=8, cutoff=0.0):
        try:
            with torch.device("meta"):
                timm.create_model(other, features_only=True)
        except Exception:  # a model without feature maps says so in any way it likes: no suggestion, then
            continue
        return repr(other)
    return "'resnet50'"


def _native_size(options: Mapping[str, Any], config: Any) -> tuple[int, int]:
    size = options.get("img_size") or (config.input_size[-2:] if config else 224)
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _bands(values: Sequence[float], count: int) -> list[float]:
    """Statistics of RGB for other bands, repeated in order as timm repeats the weights; their mean for a single one."""
    if count == 1:
        return [sum(values) / len(values)]
    return [float(values[i % len(values)]) for i in range(count)]


def _pad(body: nn.Module) -> bool:
    """Pads convolutions and poolings that lose the border, as segmentation-models-pytorch does; whether there were any.

    Some old networks (Inception, NASNet) are unpadded, so that their maps do not line up with the image.
    """
    found = False
    for module in body.modules():
        if type(module) not in (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d):
            continue
        values: list[Any] = [module.kernel_size, module.stride, module.padding]
        kernel, stride, padding = [(value, value) if isinstance(value, int) else tuple(value) for value in values]
        if padding == (0, 0) and kernel[0] > stride[0] and kernel[1] > stride[1]:
            module.padding = (kernel[0] // 2, kernel[1] // 2)  # pyright: ignore
            found = True
    return found
