"""Both sides of a benchmark whose arms run in several environments: a JSON object per line asks, and one answers.

The environments need not have segweave: this file imports the standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent


class Worker:
    """A script of this folder in an environment, which answers requests by `serve`."""

    def __init__(self, python: str | Path, script: str) -> None:
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
        self.process = subprocess.Popen(
            [str(python), str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __call__(self, do: str, **request: object) -> dict:
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps({"do": do, **request}), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"the worker ended on {do} {request}")
        return json.loads(answer)

    def must(self, do: str, **request: object) -> dict:
        """Raises SystemExit where the worker could not."""
        answer = self(do, **request)
        if "error" in answer:
            raise SystemExit(f"{do} {request}: {answer['error']}")
        return answer

    def close(self) -> None:
        self.process.communicate()


@contextmanager
def working(python: str | Path | None, script: str) -> Iterator[Worker | None]:
    worker = Worker(python, script) if python else None
    try:
        yield worker
    finally:
        if worker:
            worker.close()


def serve(make: Callable[[], object]) -> None:
    """Answers every request by the method of that name of what `make` returns, with its error where it raises one."""
    # what libraries print must not come between the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answering = make()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(answering, request.pop("do"))(**request)
        except Exception as error:  # the other arms go on
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
