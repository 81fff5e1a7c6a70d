"""Processes that read data: what each of them reads, and what to say when one is killed."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Sequence
from weakref import WeakSet

import torch
from torch.utils.data import get_worker_info

from segweave.errors import DataError


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
    if found is None:
        return None
    process = int(found[1])
    how = re.search(r"killed by signal: ([\w ]+)", str(error))
    ended = f"was killed ({how[1].strip()})" if how else "ended unexpectedly"
    where = next((last for watch in list(_WATCHES) if (last := watch.last(process))), None)
    worker = f"worker {where[0]} (process {process})" if where else f"process {process}"
    image = f" while it read image {where[1]!r} or after it" if where else ""
    memory = "shared memory (/dev/shm)" if "Bus error" in str(error) else "memory"
    return DataError(
        f"train.workers: {worker} that reads data {ended}{image}; most likely the system ran out of {memory}. Lower "
        f"train.workers (0 reads in the main process) or data.size, and go on with --resume"
    )
