"""The progress of a training run in a terminal, at any width: a bar, and below it losses and the wait for data."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text


class TrainingBar:
    """A context manager; lines printed on its console stand above it.

    Args:
        console: where it is drawn; one that is no terminal gets the last state only.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            BarColumn(16),
            TextColumn("{task.description}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
        )
        self._job = self._progress.add_task("", total=1.0, rate="")
        self._losses = Text()
        self._live = Live(Group(self._progress, self._losses), console=console, refresh_per_second=4)

    def __enter__(self) -> TrainingBar:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        shown = bool(self._losses.plain)
        self._live.transient = not shown  # without a step there is nothing to leave behind
        self._live.__exit__(None, None, None)
        if shown and not self._live.console.is_terminal:
            self._live.console.print()  # there, the last state is left without an end of line

    def update(
        self, done: float, place: str, losses: Mapping[str, float], images_per_second: float, waiting: float
    ) -> None:
        """Shows the state after a step.

        Args:
            done: share of the training, 0 to 1.
            place: such as `epoch 2, step 31/300`.
            losses: by task.
            images_per_second: of the last step.
            waiting: share of the time that training waits for data, 0 to 1.
        """
        rate = f"{images_per_second:.1f} images/s"
        self._progress.update(self._job, completed=done, description=place, rate=rate)
        shown = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
        self._losses.plain = f"loss  {shown}\nwaiting for data {100 * waiting:.0f} % of the time"

    def validating(self) -> None:
        """Shows that the time goes into validation."""
        self._progress.update(self._job, rate="validating")
