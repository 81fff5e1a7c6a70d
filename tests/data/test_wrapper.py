"""A wrapper forwards every public member of `Dataset` that an instance has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from inspect import Parameter, signature
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segweave.batch import Sample
from segweave.data.dataset import Dataset, Wrapper

MEMBERS = [
    name
    for name, member in {**Dataset.__annotations__, **vars(Dataset)}.items()
    if not name.startswith("_") and not isinstance(member, classmethod)
]
ASKED = {"index": (0, 1), "task": ("a", "b")}


class Odd(Dataset):
    """Answers by what it is asked, and never as `Dataset` would by itself."""

    ids = ("a", "b")

    @cached_property
    def notes(self) -> Counter[str]:
        return Counter(odd=3)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.ids[index], torch.full((1, 2, 2), index), {})

    def image(self, index: int) -> Tensor:
        return torch.full((1, 2, 2), 10 + index)

    def annotation(self, index: int, task: str) -> Tensor | None:
        return torch.tensor([index, ord(task)])

    def labelled(self, task: str) -> int:
        return ord(task)

    def has_label(self, index: int, task: str) -> bool:
        return self.ids[index] == task

    @property
    def sets(self) -> Mapping[str, range]:
        return {"one": range(1), "other": range(1, 2)}

    @property
    def splits(self) -> Sequence[str]:
        return ("odd",)

    def file(self, index: int, task: str | None = None) -> Path | None:
        return Path(f"{task} of {index}")

    def fingerprint(self) -> str:
        return "of an odd data set"


class Plain(Wrapper):
    """Nothing but what every wrapper has."""

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[index]


def values(parameter: Parameter) -> list[object]:
    """What to ask a parameter for, and to leave it out where that may be."""
    return [*ASKED[parameter.name], *([] if parameter.default is Parameter.empty else [parameter.default])]


@pytest.mark.parametrize("member", MEMBERS)
def test_every_member_answers_as_that_of_the_wrapped_data_set(member: str) -> None:
    assert member in vars(Odd), "an answer that is not the default one"
    odd = Odd()
    theirs, ours = getattr(odd, member), getattr(Plain(odd), member)
    if not callable(theirs):
        assert ours == theirs
        return
    for asked in product(*map(values, signature(theirs).parameters.values())):
        expected, found = theirs(*asked), ours(*asked)
        assert torch.equal(found, expected) if isinstance(expected, Tensor) else found == expected, asked


def test_notes_are_those_of_the_wrapped_data_set() -> None:
    odd = Odd()
    Plain(odd).notes["new"] += 1
    assert odd.notes == Counter(odd=3, new=1)
