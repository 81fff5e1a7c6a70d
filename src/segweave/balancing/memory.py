"""What a balancing method remembers from step to step: tensors by name, a step count, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segweave.seeds import seed_for


def pair(first: str, second: str) -> str:
    """The name of two tasks together, whatever their order."""
    return "|".join(sorted((first, second)))


class Memory(nn.Module):
    """Tensors by task or by pair of tasks, in `state_dict` bit for bit, also of those not seen when it was made.

    A tensor in it is replaced and never changed in place, so that `mark` costs nothing and `rollback` is exact. A task
    that is absent is not written, and so keeps what it has. The random numbers of a step are a function of
    (seed, step, task): the same on every process, in any order of the tasks, and after a resume.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self._values: dict[str, Tensor] = {}
        self._marked: tuple[int, dict[str, Tensor]] = (0, {})

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str, default: Tensor) -> Tensor:
        """What is held under a name, on the default's device."""
        return self._values.get(name, default).to(default.device)

    def put(self, name: str, value: Tensor) -> None:
        """Holds a detached copy of a tensor under a name."""
        self._values[name] = value.detach().clone()

    def take(self, name: str) -> Tensor:
        """What is held under a name, which is then forgotten. Raises KeyError."""
        return self._values.pop(name)

    def names(self, kind: str) -> list[str]:
        """For which names something is held under `kind/name`."""
        return [name.removeprefix(f"{kind}/") for name in self._values if name.startswith(f"{kind}/")]

    def stack(self, names: Sequence[str], default: Tensor, kind: str = "") -> Tensor:
        """[n, *default]: what is held under `kind/name` for each name, the default where there is nothing yet."""
        return torch.stack([self.get(f"{kind}/{name}", default) for name in names])

    def write(self, names: Sequence[str], values: Tensor, kind: str = "") -> None:
        """Holds the rows of [n, ...] under `kind/name`."""
        for name, value in zip(names, values, strict=True):
            self.put(f"{kind}/{name}", value)

    def normal(self, seed: int, names: Sequence[str]) -> Float[Tensor, " n"]:
        """One number from N(0, 1) for each name at this step, in the order of the names; float32 on the CPU."""
        drawn = torch.randn(len(names), generator=self.generator(seed))
        places = {name: place for place, name in enumerate(sorted(names))}
        return drawn[[places[name] for name in names]]

    def generator(self, seed: int) -> torch.Generator:
        """Of this step's random numbers, on the CPU; use it in an order that does not depend on that of the tasks."""
        return torch.Generator().manual_seed(seed_for(seed, 3, self.step))

    def mark(self) -> None:
        """An effective batch begins: the state that `rollback` returns to."""
        self._marked = (self.step, dict(self._values))

    def rollback(self) -> None:
        """Everything is again as at the last `mark`."""
        self.step, values = self._marked
        self._values = dict(values)

    def get_extra_state(self) -> dict[str, Any]:
        return {"step": torch.tensor(self.step), "values": dict(self._values)}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        self.step = int(state["step"])
        self._values = {name: value.clone() for name, value in state["values"].items()}
        self.mark()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Memory:
        """`to`, `cuda` and the like."""
        self._values = {name: fn(value) for name, value in self._values.items()}
        self._marked = (self._marked[0], {name: fn(value) for name, value in self._marked[1].items()})
        return super()._apply(fn, recurse)
