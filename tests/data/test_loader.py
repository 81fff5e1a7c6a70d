"""The stream is a function of (seed, epoch, position): workers, micro-batches and the start change nothing."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import islice

import pytest
import torch
from torch import Tensor

from segweave.batch import Batch, Sample
from segweave.data.augment import Augment, Resize
from segweave.data.dataset import Dataset
from segweave.data.loader import Effective, Loader, collate, evaluation_batches, seed_for
from segweave.data.mixture import Mixture, Part
from segweave.data.sampling import SAMPLINGS
from segweave.errors import DataError, UnreadableError
from segweave.tasks import Classification, Semantic
from segweave.tasks.task import Task

TASKS: dict[str, Task] = {
    "semantic": Semantic("semantic", classes=5),
    "scene": Classification("scene", classes=3),
}


class Memory(Dataset):
    """Ten noise images; every third has no mask, every fourth no scene, and number `broken` cannot be read."""

    def __init__(self, broken: int = -1, sizes: tuple[tuple[int, int], ...] = ((12, 16),)) -> None:
        self.ids = [f"image-{i}" for i in range(10)]
        self.broken = broken
        self.sizes = sizes

    def __getitem__(self, index: int) -> Sample:
        if index == self.broken:
            raise DataError(f"{self.ids[index]}: found nothing")
        height, width = self.sizes[index % len(self.sizes)]
        pixels = torch.randint(
            0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(index)
        )
        annotations = {name: a for name in TASKS if (a := self.annotation(index, name)) is not None}
        return Sample(self.ids[index], pixels, annotations)

    def annotation(self, index: int, task: str) -> Tensor | None:
        if task == "scene":
            return None if index % 4 == 0 else torch.tensor(index % 3)
        height, width = self.sizes[index % len(self.sizes)]
        labels = torch.full((height, width), index % 5, dtype=torch.uint8)
        return None if index % 3 == 0 else TASKS["semantic"].wrap(labels, (labels.shape[0], labels.shape[1]))

    def labelled(self, task: str) -> int:
        return sum(self.annotation(i, task) is not None for i in range(len(self)))

    def fingerprint(self) -> str:
        return "memory"


def steps(count: int, **options: int) -> list[Effective]:
    loader = Loader(Memory(), TASKS, Augment([10, 14], crop=[8, 8]), **{"batch_size": 4, "seed": 3, **options})
    return list(islice(iter(loader), count))


def images(step: Effective) -> Tensor:
    return torch.cat([batch.images for batch in step.micro])


def ids(step: Effective) -> list[str]:
    return [id for batch in step.micro for id in batch.ids]


def same(one: Effective, two: Effective) -> None:
    assert (one.step, one.epoch) == (two.step, two.epoch)
    assert len(one.micro) == len(two.micro)
    for a, b in zip(one.micro, two.micro, strict=True):
        assert list(a.ids) == list(b.ids)
        assert torch.equal(a.images, b.images)
        assert a.targets.keys() == b.targets.keys()
        for name in a.targets:
            assert torch.equal(a.targets[name].rows, b.targets[name].rows)
            assert torch.equal(a.targets[name].value, b.targets[name].value)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int) -> None:
    for one, two in zip(steps(7), steps(7, workers=workers), strict=True):
        same(one, two)


@pytest.mark.parametrize("start", [1, 3, 5])
def test_a_stream_can_begin_anywhere(start: int) -> None:
    for one, two in zip(steps(7)[start:], steps(7 - start, start_step=start), strict=True):
        same(one, two)


def test_micro_batches_are_parts_of_the_same_images() -> None:
    for whole, parts in zip(steps(4, batch_size=6), steps(4, batch_size=2, accumulate=3), strict=True):
        assert ids(whole) == ids(parts)
        assert torch.equal(images(whole), images(parts))
        assert all(len(batch) <= 2 for batch in parts.micro)


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    made = steps(6)
    assert [step.epoch for step in made] == [0, 0, 0, 1, 1, 1]
    epochs = [[id for step in made[i : i + 3] for id in ids(step)] for i in (0, 3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == Memory().ids
    assert epochs[0] != epochs[1]
    assert ids(steps(1, seed=4)[0]) != ids(made[0])


def test_an_image_is_changed_anew_each_epoch() -> None:
    seen = Counter()
    for step in steps(9):
        for batch in step.micro:
            for row, id in enumerate(batch.ids):
                seen[id, batch.images[row].numpy().tobytes()] += 1
    assert set(seen.values()) == {1}


def test_rows_tell_which_images_are_labelled() -> None:
    for step in steps(6):
        for batch in step.micro:
            numbers = [int(id.removeprefix("image-")) for id in batch.ids]
            expected = [row for row, number in enumerate(numbers) if number % 3]
            if expected:
                assert batch.targets["semantic"].rows.tolist() == expected
                for row, value in zip(expected, batch.targets["semantic"].value, strict=True):
                    assert set(value.unique().tolist()) <= {numbers[row] % 5, 255}
            else:
                assert "semantic" not in batch.targets


def test_a_task_that_nobody_is_labelled_for_is_absent() -> None:
    batch = collate([Memory()[0], Memory()[0]], TASKS)
    assert isinstance(batch, Batch)
    assert batch.targets == {}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_error_arrives_as_it_was_raised(workers: int) -> None:
    loader = Loader(Memory(broken=5), TASKS, Augment([8, 8]), batch_size=5, workers=workers)
    with pytest.raises(DataError, match=r"^image-5: found nothing$"):
        list(islice(iter(loader), 2))
    with pytest.raises(DataError, match=r"^image-5: found nothing$"):
        list(evaluation_batches(Memory(broken=5), Resize([8, 8]), workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_keeps_order_and_only_mixes_equal_sizes(workers: int) -> None:
    made = list(evaluation_batches(Memory(sizes=((12, 16), (12, 16), (9, 7))), Resize(None), 4, workers))
    assert [sample.id for _, samples in made for sample in samples] == Memory().ids
    assert [len(samples) for _, samples in made] == [2, 1, 2, 1, 2, 1, 1]
    made = list(evaluation_batches(Memory(sizes=((12, 16), (9, 7))), Resize([8, 8]), 4, workers))
    assert [len(samples) for _, samples in made] == [4, 4, 2]
    assert made[0][1][1].image.shape == (3, 9, 7)


def test_seeds_are_told_apart_by_every_part_and_fit_a_generator() -> None:
    seeds = [seed_for(*parts) for parts in [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 1), (0, 1, 0), (12, 3), (1, 23)]]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_for(0, 1, 2, 3) == 3252311618909706447


def test_images_of_several_sizes_in_a_batch_are_named() -> None:
    data = Memory(sizes=((12, 16), (9, 7)))
    with pytest.raises(
        DataError, match=r"'image-0' \[3, 12, 16\] and 'image-1' \[3, 9, 7\] differ in size .*data\.size"
    ):
        collate([data[0], data[1]], TASKS)


class Damaged(Memory):
    """Many images, of which some cannot be read."""

    def __init__(self, *damaged: int, count: int = 110) -> None:
        super().__init__()
        self.ids = [f"image-{i}" for i in range(count)]
        self.damaged = damaged

    def __getitem__(self, index: int) -> Sample:
        if index in self.damaged:
            raise UnreadableError(f"{self.ids[index]}: found an empty file")
        return super().__getitem__(index)


def damaged_steps(count: int, *damaged: int, **options: int) -> tuple[list[Effective], Loader]:
    loader = Loader(
        Damaged(*damaged, count=options.pop("images", 110)),
        TASKS,
        Augment([10, 14], crop=[8, 8]),
        **{"batch_size": 4, "seed": 3, **options},
    )
    return list(islice(iter(loader), count)), loader


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_goes_on_without_an_image_that_cannot_be_read(workers: int) -> None:
    whole, _ = damaged_steps(56)
    found, loader = damaged_steps(56, 7, workers=workers)
    assert loader.unreadable == {f"image-{i}": f"image-{i}: found an empty file" for i in (7,)}
    assert sum(len(ids(step)) for step in found) == 2 * 109
    for one, two in zip(whole, found, strict=True):
        kept = [row for row, id in enumerate(ids(one)) if id not in loader.unreadable]
        assert ids(two) == [ids(one)[row] for row in kept]
        assert torch.equal(images(two), images(one)[kept])


def test_a_batch_of_which_nothing_is_left_is_left_out() -> None:
    order = ids(damaged_steps(1, batch_size=2, accumulate=2, images=300)[0][0])
    first = [int(id.removeprefix("image-")) for id in order]
    (step,), _ = damaged_steps(1, *first[:2], batch_size=2, accumulate=2, images=300)
    assert [list(batch.ids) for batch in step.micro] == [order[2:]]
    (step,), _ = damaged_steps(1, *first[:2], batch_size=2, images=300)
    assert step.micro == []


@pytest.mark.parametrize("workers", [0, 2])
def test_more_than_one_unreadable_image_in_a_hundred_ends_training(workers: int) -> None:
    damaged_steps(28, 1, workers=workers)
    with pytest.raises(DataError, match=r"^2 of 110 .*over 1 %.*'image-\d'.*segweave check.*found an empty file$"):
        damaged_steps(28, 1, 2, workers=workers)


def test_an_unreadable_image_is_counted_once_in_all_epochs() -> None:
    _, loader = damaged_steps(28 * 2, 1)
    assert list(loader.unreadable) == ["image-1"]


def hashes(count: int, mixed: bool, sampling: str, **options: int) -> list[str]:
    """SHA-256 of everything in the batches of some steps: ids, images, rows and targets."""
    data: Dataset = Memory()
    if mixed:
        tasks = tuple(TASKS)
        data = Mixture({"a": Part(Memory(), tasks), "b": Part(Damaged(count=5), tasks)}, [*TASKS.values()])
    size = options.get("batch_size", 4) * options.get("accumulate", 1)
    chosen = {"repeat_factor": {"task": "scene", "threshold": 0.6}, "tasks": {"minimum": 2}}.get(sampling, {})
    made = SAMPLINGS.load(sampling)(data, TASKS, size, 3, **chosen)
    loader = Loader(
        data, TASKS, Augment([10, 14], crop=[8, 8]), sampling=made, **{"batch_size": 4, "seed": 3, **options}
    )
    found = []
    for step in islice(iter(loader), count):
        digest = hashlib.sha256(repr((step.step, step.epoch, [list(batch.ids) for batch in step.micro])).encode())
        for batch in step.micro:
            parts = [(name, part) for name, t in sorted(batch.targets.items()) for part in (t.rows, t.value)]
            for name, part in [("", batch.images), *parts]:
                plain = part.as_subclass(Tensor).contiguous()
                digest.update(repr((name, plain.dtype, plain.shape)).encode() + plain.numpy().tobytes())
        found.append(digest.hexdigest())
    return found


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_batches_are_a_function_of_seed_epoch_and_position(sampling: str, mixed: bool) -> None:
    whole = hashes(13, mixed, sampling)
    assert len(set(whole)) == 13
    for start, workers in ((0, 1), (0, 2), (1, 0), (4, 0), (9, 0), (6, 2)):
        assert hashes(13 - start, mixed, sampling, workers=workers, start_step=start) == whole[start:]
    assert set(whole).isdisjoint(hashes(3, mixed, sampling, seed=4))


def test_sets_in_another_order_give_the_same_batches() -> None:
    def made(*names: str) -> Mixture:
        return Mixture({name: Part(Memory(broken=-1), tuple(TASKS)) for name in names}, [*TASKS.values()])

    for sampling in ("proportional", "uniform", "round_robin"):
        found = []
        for data in (made("a", "b"), made("b", "a")):
            order = SAMPLINGS.load(sampling)(data, TASKS, 4, 3)
            loader = Loader(data, TASKS, Augment([8, 8]), batch_size=4, sampling=order, seed=3)
            found.append([ids(step) for step in islice(iter(loader), 7)])
        assert found[0] == found[1]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_processes_that_share_the_steps_lose_no_image_whatever_their_number(sampling: str) -> None:
    """What `keys` says does not depend on who reads: slices of each step, by any number of readers, are the epoch."""
    chosen = {"task": "scene"} if sampling == "repeat_factor" else {}

    def epoch(batch_size: int, accumulate: int) -> list[list[tuple[int, int, int]]]:
        order = SAMPLINGS.load(sampling)(Memory(), TASKS, 4, 3, **chosen)
        loader = Loader(Memory(), TASKS, Augment([8, 8]), batch_size=batch_size, accumulate=accumulate, sampling=order)
        return [[key for micro in loader.keys(step) for key in micro] for step in range(loader.steps_per_epoch)]

    whole = epoch(4, 1)
    assert epoch(2, 2) == epoch(1, 4) == whole
    assert [position for step in whole for _, position, _ in step] == list(range(sum(map(len, whole))))
    # one process for the first step, two from then on
    taken = [*whole[0], *(key for step in whole[1:] for rank in range(2) for key in step[rank::2])]
    assert sorted(taken) == sorted(key for step in whole for key in step)


def test_an_epoch_in_one_line() -> None:
    loader = Loader(Memory(), TASKS, Augment([8, 8]), batch_size=4)
    assert loader.epoch_line() == "an epoch: 10 images, 3 steps"
    data = Mixture({"b": Part(Memory(), ("scene",)), "a": Part(Damaged(count=5), ("scene",))}, [*TASKS.values()])
    order = SAMPLINGS.load("uniform")(data, TASKS, 4, 0)
    mixed = Loader(data, TASKS, Augment([8, 8]), batch_size=2, accumulate=2, sampling=order)
    assert mixed.epoch_line() == "an epoch: 16 images (a 8, b 8), 4 steps"
