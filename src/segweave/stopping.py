"""Ctrl-C and SIGTERM while a network trains: the step is finished and saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn


class Stop:
    """Notes SIGINT and SIGTERM inside a `with` block of the main thread; elsewhere Python keeps them to itself.

    A second Ctrl-C no longer waits. SIGTERM may come again without harm, as schedulers repeat it.

    Attributes:
        signal: what came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._waits = True
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        again = self.signal is not None
        self.signal = self.signal or number
        if not self._waits or (again and number == signal.SIGINT):
            raise KeyboardInterrupt

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal breaks off what runs by KeyboardInterrupt: for work that a resumed run does again."""
        self._waits = False
        try:
            yield
        finally:
            self._waits = True

    def leave(self) -> NoReturn:
        """Ends as the signal would have: KeyboardInterrupt, or SystemExit with 143 after SIGTERM."""
        if self.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt
