"""What a sampling is: it says which images make each step of an epoch, whoever reads them and wherever it starts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch

from segweave.data.dataset import Dataset
from segweave.seeds import seed_for
from segweave.tasks.task import Task

Item = TypeVar("Item")
_DECKS = 3
"""What the shuffled sets are for, among the purposes of the seed: 0 is an epoch's order, 1 augmentation, 2 dropout."""


class Sampling(ABC):
    """Which images make each step of an epoch: a function of (seed, epoch), so that any step is known without others.

    Args:
        dataset: the training images.
        tasks: by name.
        size: images of an effective batch, in all its micro-batches.
        seed: of every order.

    Attributes:
        steps: of an epoch, the same number in each.
    """

    steps: int

    def __init__(self, dataset: Dataset, tasks: Mapping[str, Task], size: int, seed: int) -> None:
        self.dataset = dataset
        self.tasks = tasks
        self.size = size
        self.seed = seed
        self.steps = steps_for(len(dataset), size)

    @abstractmethod
    def epoch(self, number: int) -> list[list[int]]:
        """The images of an epoch from 0 by step: `steps` lists of at most `size` indices, none of them empty."""


def steps_for(images: int, size: int) -> int:
    """The least number of steps of `size` that holds them."""
    return -(-images // size)


def cut(order: Sequence[Item], size: int) -> list[list[Item]]:
    """An order in steps of `size`; the last one may be short."""
    return [list(order[start : start + size]) for start in range(0, len(order), size)]


def shuffled(count: int, *purpose: int) -> list[int]:
    """0 to count - 1 in an order that is a function of the seed and what it is for."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed_for(*purpose))).tolist()


def deal(sets: Sequence[range], quotas: Sequence[int], epoch: int, seed: int) -> list[list[int]]:
    """An epoch's images of every set, as many as its quota says.

    Each set is dealt like a pack of cards: all its images once in a random order, then all of them in another one. An
    epoch goes on where the one before it ended, so that no image waits while another comes twice as often.
    """
    hands = []
    for place, (images, quota) in enumerate(zip(sets, quotas, strict=True)):
        hand: list[int] = []
        while len(hand) < quota:
            deal_number, start = divmod(epoch * quota + len(hand), len(images))
            order = shuffled(len(images), seed, _DECKS, place, deal_number)
            hand += [images[index] for index in order[start : start + quota - len(hand)]]
        hands.append(hand)
    return hands
