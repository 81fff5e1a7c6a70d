"""Labels that only some images have train as they should: the same gradient however they are stored, rare ones too."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segweave.batch import Batch, Labelled, Sample
from segweave.data.augment import Augment
from segweave.data.dataset import Dataset
from segweave.data.loader import Effective, Loader
from segweave.data.mixture import Mixture, Part
from segweave.data.sampling.proportional import Proportional
from segweave.data.sampling.tasks import Tasks
from segweave.model import MultiTaskModel, create_model
from segweave.tasks import Depth, Semantic
from segweave.tasks.task import Task
from segweave.train import Step, fit

SIDE = 32


def readers() -> list[Task]:
    return [Semantic("semantic", classes=2), Depth("depth", max_depth=10.0)]


class Scenes(Dataset):
    """A bright square of class 1 and 4 m on a dark ground of class 0 and 2 m; `labels` has the labelled ones by task.

    With `ignored`, the other images have labels in which nothing is labelled.
    """

    def __init__(self, numbers: range, labels: dict[str, set[int]], ignored: bool = False) -> None:
        self.ids = [f"{number:03d}" for number in numbers]
        self.numbers = numbers
        self.labels = labels
        self.ignored = ignored
        self.readers = {task.name: task for task in readers()}

    def _draw(self, index: int, ground: Tensor, change: float) -> Tensor:
        top = 2 * (self.numbers[index] % 8)
        ground[..., top : top + 14, top : top + 14] += change
        return ground

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(self.numbers[index])
        ground = torch.randint(0, 80, (3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
        labels = {name: label for name in self.labels if (label := self.annotation(index, name)) is not None}
        return Sample(self.ids[index], self._draw(index, ground, 150), labels)

    def annotation(self, index: int, task: str) -> Tensor | None:
        ground = torch.zeros(SIDE, SIDE, dtype=torch.uint8) if task == "semantic" else torch.full((SIDE, SIDE), 2.0)
        label = self._draw(index, ground, 1 if task == "semantic" else 2)
        if self.numbers[index] not in self.labels[task]:
            if not self.ignored:
                return None
            label[:] = 255 if task == "semantic" else 0
        return self.readers[task].wrap(label, (SIDE, SIDE))

    def labelled(self, task: str) -> int:
        return len(self.labels[task])

    def fingerprint(self) -> str:
        return "scenes"


def network() -> MultiTaskModel:
    torch.manual_seed(0)
    return create_model(readers(), backbone="test_resnet", decoder={"name": "fpn", "width": 16, "dropout": 0.0})


def loader(dataset: Dataset, model: MultiTaskModel, batch_size: int, accumulate: int = 1, **options: Any) -> Loader:
    augment = Augment([SIDE, SIDE], scale=None, flip=0.0, colour=0.0)
    return Loader(dataset, model.tasks, augment, batch_size=batch_size, accumulate=accumulate, **options)


def double(micro: Sequence[Batch]) -> list[Batch]:
    return [
        Batch(batch.ids, batch.images.double(), {name: _double(target) for name, target in batch.targets.items()})
        for batch in micro
    ]


def _double(target: Labelled) -> Labelled:
    return Labelled(target.rows, target.value.double() if target.value.is_floating_point() else target.value)


def step_of(dataset: Dataset, accumulate: int) -> tuple[dict[str, Tensor], Step]:
    """The gradient of the first step over all images, as what plain descent at a rate of 1 changes, in float64."""
    model = network().double()
    effective = next(iter(loader(dataset, model, 8 // accumulate, accumulate)))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    (step,) = fit(model, [Effective(0, 0, double(effective.micro))], optimizer=optimizer)
    return {name: before[name] - parameter.detach() for name, parameter in model.named_parameters()}, step


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("ignored", [False, True])
def test_two_half_labelled_sets_give_the_gradient_of_one_set_with_masks(accumulate: int, ignored: bool) -> None:
    """Images 0 to 3 have masks, 4 to 7 depth: as two sets, and as one whose other labels lack or say nothing.

    In one batch the sets come in the other order too. With two micro-batches they keep it, because batch normalisation
    tells which images are together.
    """
    masks, depth = {"semantic": set(range(4))}, {"depth": set(range(4, 8))}
    first, second = ("b", "a") if accumulate == 1 else ("a", "b")
    parts = {
        first: Part(Scenes(range(4), masks), ("semantic",)),
        second: Part(Scenes(range(4, 8), depth), ("depth",)),
    }
    mixed, one = step_of(Mixture(parts, readers()), accumulate)
    whole, two = step_of(Scenes(range(8), {**masks, **depth}, ignored), accumulate)
    assert one.losses.keys() == {"semantic", "depth"}
    # losses and the depth's activation are float32 inside: 1e-7 each, and sums in another order
    assert one.losses == pytest.approx(two.losses, rel=1e-6)
    largest = max(float(gradient.abs().max()) for gradient in mixed.values())
    assert largest > 1e-3
    for name, gradient in mixed.items():
        assert torch.allclose(gradient, whole[name], rtol=1e-4, atol=1e-6 * largest), name


def trained(steps: int, sampling: type[Proportional] | type[Tasks]) -> tuple[list[Step], list[str], list[str]]:
    """Steps on 100 images with masks of which one has depth, and the parameters that changed and that did not."""
    model, data = network(), Scenes(range(100), {"semantic": set(range(100)), "depth": {42}})
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    batches = loader(data, model, 4, sampling=sampling(data, model.tasks, 4, 0))
    made = list(islice(fit(model, batches, optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3)), steps))
    same = [name for name, parameter in model.named_parameters() if torch.equal(before[name], parameter)]
    return made, [name for name in before if name not in same], same


def test_a_task_with_labels_on_one_image_in_a_hundred_trains() -> None:
    steps, _, same = trained(60, Tasks)
    assert same == []
    for task in ("semantic", "depth"):
        losses = [step.losses[task] for step in steps]  # both in every step
        assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:3])


def test_without_a_sampling_of_its_own_it_is_absent_from_most_steps_and_breaks_none() -> None:
    steps, changed, _ = trained(25, Proportional)
    assert sum("depth" in step.losses for step in steps) == 1
    assert all(np.isfinite(step.total) and not step.not_finite for step in steps)
    assert [name for name in changed if "depth" in name]
