"""What a user may write under `regularizers`, checked without importing torch."""

from __future__ import annotations

import math
from typing import Any

from segweave.errors import ConfigError
from segweave.regularizers import REGULARIZERS


def check_betas(betas: Any, where: str) -> None:
    """Raises ConfigError unless these are numbers of 0 or more by the name of a regulariser.

    Args:
        betas: `{name: beta}`, or None for none.
        where: the dotted name of the section, such as "tasks.depth.regularizers".
    """
    if betas is None:
        return
    if not hasattr(betas, "items"):
        raise ConfigError(f"{where}: found {betas!r}; expected `name: number`, some of {', '.join(REGULARIZERS)}")
    for name, beta in betas.items():
        REGULARIZERS.require(name, where)
        if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 <= beta < math.inf:
            raise ConfigError(f"{where}.{name}: found {beta!r}; expected a number of 0 or more")
