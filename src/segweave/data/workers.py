"""Processes that read data: what each of them reads, and what to say when one is killed."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar
from weakref import WeakSet

import torch
from torch.utils.data import get_worker_info

from segweave.errors import DataError

T = TypeVar("T")
_SECONDS = 1.0
"""For an ended process to be seen as such after its pipe has closed."""


class Watch:
    """Notes in shared memory which image each worker reads.

    Args:
        ids: of the images.
        workers: how many processes there are; with 0 nothing is noted.
    """

    def __init__(self, ids: Sequence[str], workers: int) -> None:
        self.ids = ids
        self.workers = workers
        with torch.inference_mode(False):  # a tensor made in that mode cannot be written to outside of it
            self._now = torch.full((workers, 2), -1).share_memory_()  # process and index
        _WATCHES.add(self)

    def reads(self, index: int) -> None:
        """Called in the worker before it reads an image."""
        worker = get_worker_info()
        if worker is not None:
            self._now[worker.id, 0], self._now[worker.id, 1] = os.getpid(), index

    def last(self, process: int) -> tuple[int, str] | None:
        """Number of the worker that is or was a process, and the id of the image that it read last."""
        for worker, (own, index) in enumerate(self._now.tolist()):
            if own == process:
                return worker, self.ids[int(index)]
        return None

    def lost(self) -> int | None:
        """A worker's process that has ended, waiting a moment for it."""
        until = time.monotonic() + _SECONDS
        while True:
            alive = {child.pid for child in multiprocessing.active_children()}
            ended = [own for own in self._now[:, 0].tolist() if own >= 0 and own not in alive]
            if ended or time.monotonic() > until:
                return ended[0] if ended else None
            time.sleep(0.02)


_WATCHES: WeakSet[Watch] = WeakSet()


def leave_signals(_: int) -> None:
    """For a worker's start: Ctrl-C and a scheduler's SIGTERM reach it too, but the main process has a step to finish.

    A SIGTERM of the main process itself is obeyed: torch and multiprocessing end workers by it that are left over.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS cannot tell who sent a signal, and keeps torch's handler
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        continue
    os._exit(0)


def killed(error: RuntimeError) -> DataError | None:
    """What torch's error about a dead worker means, from whatever line it came; None for any other error."""
    found = re.search(r"DataLoader worker \(pid(?:\(s\))? (\d+)", str(error))
    return _ended(int(found[1]), str(error)) if found else None


def guarded(batches: Iterator[T], watch: Watch) -> Iterator[T]:
    """What workers hand over. One that ends in the middle of it breaks the pipe, before torch notices.

    Raises:
        DataError: that happened.
    """
    try:
        yield from batches
    except (OSError, EOFError) as error:
        process = watch.lost()
        if process is None:
            raise
        raise _ended(process, str(error)) from error


def _ended(process: int, words: str) -> DataError:
    """What is told of a process that is gone, and of which an error has these words."""
    how = re.search(r"killed by signal: ([\w ]+)", words)
    ended = f"was killed ({how[1].strip()})" if how else "ended unexpectedly"
    where = next((last for watch in list(_WATCHES) if (last := watch.last(process))), None)
    worker = f"worker {where[0]} (process {process})" if where else f"process {process}"
    image = f" while it read image {where[1]!r} or after it" if where else ""
    memory = "shared memory (/dev/shm)" if "Bus error" in words else "memory"
    return DataError(
        f"train.workers: {worker} that reads data {ended}{image}; most likely the system ran out of {memory}. Lower "
        f"train.workers (0 reads in the main process) or data.size, and go on with --resume"
    )
