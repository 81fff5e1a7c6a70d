"""A stream of effective batches that is a function of (seed, epoch, position), whatever the number of workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from segweave.batch import Batch, Labelled, Sample
from segweave.data.augment import Augment, Change, Resize, to_float
from segweave.data.dataset import Dataset
from segweave.data.device_augment import Pending
from segweave.data.sampling.proportional import Proportional
from segweave.data.sampling.sampling import Sampling, cut
from segweave.data.workers import Watch, guarded, leave_signals
from segweave.errors import DataError, UnreadableError
from segweave.seeds import seed_for as seed_for
from segweave.tasks.task import Task

_UNREADABLE = 0.01


@dataclass(frozen=True)
class Effective:
    """One optimizer step's images: `step` from 0, `epoch` from 0, and the micro-batches; none if none can be read."""

    step: int
    epoch: int
    micro: Sequence[Batch]


def collate(samples: Sequence[Sample], tasks: Mapping[str, Task]) -> Batch:
    """Samples of one size to a batch; a task none of them is labelled for is absent from its targets.

    Raises:
        DataError: images of several sizes.
    """
    _one_shape([(sample.id, list(sample.image.shape)) for sample in samples])
    images = torch.stack([to_float(sample.image) for sample in samples])
    return Batch([sample.id for sample in samples], images, _targets(samples, tasks))


def collate_windows(cut: Sequence[tuple[Sample, Change]], tasks: Mapping[str, Task]) -> Pending:
    """The same of what `Augment.cut` made."""
    _one_shape([(sample.id, [len(sample.image), *change.size]) for sample, change in cut])
    samples, changes = zip(*cut, strict=True)
    windows = [sample.image for sample in samples]
    return Pending.of([sample.id for sample in samples], windows, changes, _targets(samples, tasks))


def _one_shape(shapes: Sequence[tuple[str, list[int]]]) -> None:
    one, first = shapes[0]
    for two, other in shapes:
        if other != first:
            raise DataError(
                f"images {one!r} {first} and {two!r} {other} differ in size or bands and cannot share a batch; set "
                f"data.size, data.augment.crop or data.bands"
            )


def _targets(samples: Sequence[Sample], tasks: Mapping[str, Task]) -> dict[str, Labelled]:
    targets = {}
    for name, task in tasks.items():
        rows = [row for row, sample in enumerate(samples) if name in sample.annotations]
        if rows:
            values = [task.encode(samples[row].annotations[name]) for row in rows]
            targets[name] = Labelled(torch.tensor(rows), task.stack(values))
    return targets


class _Micro(TorchDataset):
    """Builds micro-batches in workers, each with the notes that reading its images made, and what could not be read.

    The rest of a batch goes on without an unreadable image; None stands for a batch of which nothing is left. Another
    data error travels as a value, so that its message arrives unchanged.
    """

    def __init__(self, dataset: Dataset, tasks: Mapping[str, Task], augment: Augment, seed: int, workers: int) -> None:
        self.dataset = dataset
        self.tasks = tasks
        self.augment = augment
        self.seed = seed
        self.watch = Watch(dataset.ids, workers)

    def __getitem__(self, keys: Sequence[tuple[int, int, int]]) -> Any:
        try:
            change, join = (self.augment.cut, collate_windows) if self.augment.device else (self.augment, collate)
            made, unreadable = [], {}
            for epoch, position, index in keys:
                self.watch.reads(index)
                generator = torch.Generator().manual_seed(seed_for(self.seed, 1, epoch, position))
                try:
                    made.append(change(self.dataset[index], self.tasks, generator))
                except UnreadableError as error:
                    unreadable[self.dataset.ids[index]] = str(error)
            notes = dict(self.dataset.notes)
            self.dataset.notes.clear()
            return join(made, self.tasks) if made else None, notes, unreadable
        except DataError as error:
            return error


class _Evaluation(TorchDataset):
    def __init__(self, dataset: Dataset, resize: Resize, workers: int) -> None:
        self.dataset = dataset
        self.resize = resize
        self.watch = Watch(dataset.ids, workers)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        self.watch.reads(index)
        try:
            sample = self.dataset[index]
            return self.resize(sample.image), sample
        except DataError as error:
            return error


class _Stream:
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        step = self.loader.start_step
        while True:
            yield from self.loader.keys(step)
            step += 1


class Loader:
    """Endless effective batches of augmented training images.

    The images of a step and what augmentation makes of them are a function of (seed, epoch, position in the epoch), for
    any number of workers, and the stream begins at any step without making those before it. The order is that of the
    effective batch: processes that share a step divide its images, so that their number may change between two steps.

    Args:
        dataset: the images.
        tasks: by name.
        augment: applied to each image with a generator of its own.
        batch_size: images that go through the network together.
        accumulate: such micro-batches per optimizer step.
        seed: of the order and of the augmentation.
        workers: processes that read; 0 reads in this one.
        start_step: where the stream begins.
        sampling: which images make each step, with effective batches of batch_size x accumulate; each image once an
            epoch by default.
        device: where images are changed, where `augment` leaves that to the device.

    Raises:
        ConfigError: `augment` names tasks or classes that there are not.

    Attributes:
        notes: what reading the images so far gave a user to know (such as conversions), and how often.
        unreadable: why, by id, of the images that training went on without so far.
    """

    def __init__(
        self,
        dataset: Dataset,
        tasks: Mapping[str, Task],
        augment: Augment,
        *,
        batch_size: int = 8,
        accumulate: int = 1,
        seed: int = 0,
        workers: int = 0,
        start_step: int = 0,
        sampling: Sampling | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        augment.check(tasks)
        self.dataset = dataset
        self.device = device
        self.batch_size = batch_size
        self.start_step = start_step
        self.sampling = sampling or Proportional(dataset, tasks, batch_size * accumulate, seed)
        self.steps_per_epoch = self.sampling.steps
        self.notes: Counter[str] = Counter()
        self.unreadable: dict[str, str] = {}
        self._epochs: dict[int, list[list[tuple[int, int, int]]]] = {}
        self._micro = _Micro(dataset, tasks, augment, seed, workers)
        self._torch = DataLoader(
            self._micro,
            batch_size=None,
            sampler=_Stream(self),  # pyright: ignore[reportArgumentType]
            num_workers=workers,
            worker_init_fn=leave_signals,
            pin_memory=torch.cuda.is_available(),
        )

    def keys(self, step: int) -> list[list[tuple[int, int, int]]]:
        """(epoch, position, index) of every image of a step, by micro-batch."""
        epoch, inside = divmod(step, self.steps_per_epoch)
        if epoch not in self._epochs:
            positions = count()
            steps = [[(epoch, next(positions), index) for index in images] for images in self.sampling.epoch(epoch)]
            # workers begin an epoch while the last batches of the one before are still being handed over
            self._epochs = {number: made for number, made in self._epochs.items() if number >= epoch - 1} | {
                epoch: steps
            }
        return cut(self._epochs[epoch][inside], self.batch_size)

    def epoch_line(self) -> str:
        """What an epoch is: `an epoch: 373 images (camvid 123, nyuv2 250), 47 steps`, counted in the first one."""
        order = [index for images in self.sampling.epoch(0) for index in images]
        sets = {name: sum(index in places for index in order) for name, places in self.dataset.sets.items()}
        parts = f" ({', '.join(f'{name} {images}' for name, images in sets.items())})" if any(sets) else ""
        return f"an epoch: {len(order)} images{parts}, {self.steps_per_epoch} steps"

    def _miss(self, unreadable: Mapping[str, str]) -> None:
        """Counts each image once. Raises DataError past one image in a hundred."""
        self.unreadable.update(unreadable)
        if len(self.unreadable) > _UNREADABLE * len(self.dataset):
            names = ", ".join(repr(id) for id in list(self.unreadable)[:5])
            more = f" and {len(self.unreadable) - 5} more" if len(self.unreadable) > 5 else ""
            raise DataError(
                f"{len(self.unreadable)} of {len(self.dataset)} training images cannot be read, over 1 % of them: "
                f"{names}{more}. `segweave check` lists them all. The last: {[*self.unreadable.values()][-1]}"
            )

    def __iter__(self) -> Iterator[Effective]:
        stream = guarded(iter(self._torch), self._micro.watch)
        step = self.start_step
        while True:
            micro = []
            for _ in self.keys(step):
                made = next(stream)
                if isinstance(made, DataError):
                    raise made
                batch, notes, unreadable = made
                if batch is not None:
                    micro.append(batch.made(self.device) if isinstance(batch, Pending) else batch)
                self.notes.update(notes)
                self._miss(unreadable)
            yield Effective(step, step // self.steps_per_epoch, micro)
            step += 1


def evaluation_batches(
    dataset: Dataset, resize: Resize, batch_size: int = 8, workers: int = 0
) -> Iterator[tuple[Tensor, list[Sample]]]:
    """Resized images [B, C, h, w] in order, with their samples as read; only images of one size share a batch.

    Raises:
        DataError: a file that cannot be read.
    """
    made = _Evaluation(dataset, resize, workers)
    loader = DataLoader(made, batch_size=None, num_workers=workers, worker_init_fn=leave_signals)
    images: list[Tensor] = []
    samples: list[Sample] = []
    for item in guarded(iter(loader), made.watch):
        if isinstance(item, DataError):
            raise item
        image, sample = item
        if images and (len(images) == batch_size or image.shape != images[0].shape):
            yield torch.stack(images), samples
            images, samples = [], []
        images.append(image)
        samples.append(sample)
    if images:
        yield torch.stack(images), samples
