"""The most memory that tensors hold at once while something runs."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import Any, no_type_check

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak:
    """A context that measures, and may be entered again to go on.

    On CUDA it is what the allocator counts (its peak statistics start anew), with the libraries' workspaces; elsewhere
    the exact sum of live tensors after each operator, without scratch memory inside an operator.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._live = _LiveTensors()
        self._before: int | None = None

    def __enter__(self) -> Peak:
        if self._cuda is None:
            self._live.__enter__()
        elif self._before is None:
            torch.cuda.synchronize(self._cuda)
            self._before = torch.cuda.memory_allocated(self._cuda)
            torch.cuda.reset_peak_memory_stats(self._cuda)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._cuda is None:
            self._live.__exit__(kind, error, trace)

    @property
    def bytes(self) -> int:
        """The most that tensors made inside the context have held at once so far."""
        if self._cuda is None:
            return self._live.peak
        return torch.cuda.max_memory_allocated(self._cuda) - (self._before or 0)


def held(*modules: nn.Module) -> int:
    """Bytes of the parameters and buffers."""
    return sum(tensor.nbytes for one in modules for tensor in (*one.parameters(), *one.buffers()))


class _LiveTensors(TorchDispatchMode):
    """Adds up the memory of the tensors that operators make inside the context, until each is freed.

    Attributes:
        peak: the most bytes that were held at once, looked at after every operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0

    @no_type_check  # all is Any; a checker would take an error that a signal's handler raises here for a wrong type
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        # a view and an operator in place give back the storage of an argument
        seen = [_storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and not any(_storage(leaf) is storage for storage in seen):
                storage = _storage(leaf)
                seen.append(storage)
                self.held += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.held)
        return result

    def _free(self, size: int) -> None:
        self.held -= size


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()
