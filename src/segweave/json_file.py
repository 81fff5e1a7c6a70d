"""JSON files that others wrote, also with a byte order mark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segweave.errors import DataError


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises DataError for a file that cannot be read, or is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a JSON file") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: found no JSON ({error}); expected a JSON file") from None
