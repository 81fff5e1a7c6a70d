"""Files that are written whole or not at all, whatever ends the process or the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place when the block ends and is gone where it raises.

    Args:
        path: of the file to write.
        keep: where the file that was there goes, in place of what is there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if keep is not None and path.is_file():
            path.replace(keep)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell of
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """A whole file of UTF-8 text, in place of the one that is there."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync_folder(folder: Path) -> None:
    """Brings new names to the disk, as a power cut would otherwise bring the old ones back."""
    if hasattr(os, "O_DIRECTORY"):  # elsewhere a folder cannot be opened
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(folder: Path) -> None:
    """Removes the temporary files of processes that were killed while they wrote."""
    for path in folder.glob(".*.*"):
        number = path.name.rpartition(".")[2]
        if number.isdecimal() and path.is_file() and not _is_another(int(number)):
            path.unlink(missing_ok=True)


def _is_another(process: int) -> bool:
    """Whether a process of that number runs, other than this one: in containers the number of the dead comes again."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
