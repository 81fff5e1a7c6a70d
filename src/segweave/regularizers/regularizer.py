"""What a regulariser is: one number from a part of the network and what it made of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from segweave.errors import ConfigError
from segweave.regularizers import REGULARIZERS
from segweave.regularizers.betas import check_betas


def _nothing() -> Tensor:
    raise AssertionError("a regulariser read what its `fits` and `twice` do not ask for")


@dataclass(frozen=True)
class Part:
    """An owner of regularisers, a task or the shared part, as one micro-batch finds it.

    Args:
        parameters: the owner's, of any shape.
        features: what the owner reads, each [B, C, h, w]; the sizes may differ.
        images: of the micro-batch, in [0, 1]; [B, bands, H, W].
        soft: a task's soft prediction for ALL these images, labelled or not: a map [B, C, H, W] or scores [B, C].
        mirrored: the same for the mirrored images, mirrored back; the first call runs the network a second time.
        projections: for the shared part, groups of weights [out, in] with which heads read one and the same tensor.
    """

    parameters: Sequence[Tensor] = ()
    features: Sequence[Tensor] = ()
    images: Float[Tensor, "B bands H W"] | None = None
    soft: Callable[[], Tensor] = _nothing
    mirrored: Callable[[], Tensor] = _nothing
    projections: Sequence[Sequence[Float[Tensor, "_ _"]]] = ()


class Regularizer(nn.Module, ABC):
    """R_i of the objective `sum_i alpha_i L_i + beta_i R_i`, before its beta. Its gradient is never reweighted.

    Attributes:
        fits: whom it may belong to: `shared`, or a task whose soft prediction is a `map`, `scores`, or `none`.
        soft: whether it reads soft predictions, for which a task's head runs on all images, labelled or not.
        twice: whether it reads the mirrored ones, for which the network runs a second time.
    """

    fits: ClassVar[tuple[str, ...]] = ("shared", "map", "scores", "none")
    soft: ClassVar[bool] = False
    twice: ClassVar[bool] = False

    @abstractmethod
    def forward(self, part: Part) -> Float[Tensor, ""]:
        """One number that grows with what is to be kept small, at least 0; a mean over the images."""


_OWNERS = {"shared": "the shared part", "map": "tasks with a map", "scores": "tasks with scores", "none": "other tasks"}


def check_regularizers(betas: Mapping[str, Any] | None, where: str, owner: str) -> None:
    """Raises ConfigError where a beta is wrong, or a regulariser has nothing to read of its owner.

    Args:
        betas: `{name: beta}`.
        where: the dotted name of the section, such as "tasks.depth.regularizers".
        owner: one of what `Regularizer.fits` names.
    """
    check_betas(betas, where)
    for name in betas or {}:
        fits = REGULARIZERS.load(name).fits
        if owner not in fits:
            place = "model.regularizers" if fits == ("shared",) else "tasks.<name>.regularizers"
            raise ConfigError(
                f"{where}.{name}: found at {_OWNERS[owner]}; expected under {place}, as it is for "
                f"{' and '.join(_OWNERS[fit] for fit in fits)}"
            )
