"""Images made on the device are those that the workers make, and nothing else of a batch changes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from segweave import build
from segweave.batch import Batch, Sample
from segweave.data.augment import Augment, Change
from segweave.data.dataset import Dataset
from segweave.data.device_augment import Pending, Windows
from segweave.data.loader import Effective, Loader, collate, collate_windows
from segweave.errors import CheckpointError, DataError, UnreadableError
from segweave.tasks import Depth, Detection, Semantic
from segweave.tasks.boxes import Boxes
from segweave.tasks.task import Task
from tiny import steps, tiny

LEVEL = 1 / 255 + 1e-6
"""One level of uint8, of floats in [0, 1]."""


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(kind: torch.dtype, bands: int, height: int, width: int, seed: int, channels_last: bool = False) -> Tensor:
    """Noise on a ramp, so that neither neighbours nor halves of the image look alike."""
    ramp = torch.linspace(0, 0.4, height)[:, None] + torch.linspace(0, 0.3, width)
    values = ramp + 0.3 * torch.rand(bands, height, width, generator=generator(seed))
    values = values.permute(1, 2, 0).contiguous().permute(2, 0, 1) if channels_last else values
    if kind == torch.float32:
        return 3000 * values - 500
    return (values * (255 if kind == torch.uint8 else 65535)).round().to(torch.int32).to(kind)


def both(augment: Augment, samples: Sequence[Sample], tasks: dict[str, Task], seed: int = 0) -> tuple[Batch, Batch]:
    """Of the workers and of the device."""
    seeds = range(seed, seed + len(samples))
    cut = [augment.cut(sample, tasks, generator(s)) for sample, s in zip(samples, seeds, strict=True)]
    one = collate([augment(sample, tasks, generator(s)) for sample, s in zip(samples, seeds, strict=True)], tasks)
    return one, collate_windows(cut, tasks).made("cpu")


def differences(one: Tensor, two: Tensor) -> Tensor:
    assert one.dtype == two.dtype == torch.float32
    assert one.shape == two.shape
    return (one - two).abs()


@settings(max_examples=120, deadline=None)
@given(
    kind=st.sampled_from([torch.uint8, torch.uint16, torch.float32]),
    bands=st.sampled_from([1, 3, 4, 13]),
    sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(2, 90)), min_size=1, max_size=4),
    size=st.none() | st.tuples(st.integers(1, 70), st.integers(1, 70)),
    crop=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    scale=st.none() | st.tuples(st.floats(0.1, 1), st.floats(1, 4)),
    colour=st.floats(0, 0.6),
    channels_last=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_pixels_are_those_of_the_workers(
    kind: torch.dtype,
    bands: int,
    sizes: list[tuple[int, int]],
    size: tuple[int, int] | None,
    crop: tuple[int, int],
    scale: tuple[float, float] | None,
    colour: float,
    channels_last: bool,
    seed: int,
) -> None:
    samples = [Sample(str(k), picture(kind, bands, *s, seed + k, channels_last), {}) for k, s in enumerate(sizes)]
    augment = Augment(size, scale=scale, crop=crop, colour=colour)
    # torch 2.15 resizes floats to a width of 1 wrongly, and refuses uint8
    assume(all(augment.draw(s, {}, generator(seed + k)).inner[1] > 1 for k, s in enumerate(samples)))
    one, two = both(augment, samples, {}, seed)
    found = differences(one.images, two.images)
    if kind == torch.uint8:
        assert float(found.max()) <= LEVEL
    else:
        # weights in float32 against float64, on values up to 2600
        assert float(found.max()) <= (2e-5 if kind == torch.uint16 else 2e-5 * 3000)


@pytest.mark.parametrize("colour", [0, 0.25])
@pytest.mark.parametrize("bands", [1, 3, 13])
def test_whole_numbers_are_the_same_up_to_a_reduction_of_four(bands: int, colour: float) -> None:
    """Their sums are exact on any device, so that rounding and colour cannot add up to more than one level."""
    samples = [Sample(str(k), picture(torch.uint8, bands, 150 + k, 220 - k, k, True), {}) for k in range(8)]
    for scale, crop in (((0.3, 0.7), [64, 70]), ((0.7, 3.0), [128, 120]), ((0.5, 0.5), [100, 130])):
        one, two = both(Augment(None, scale=scale, crop=crop, colour=colour), samples, {})
        found = differences(one.images, two.images)
        if "AVX" in torch.backends.cpu.get_cpu_capability():  # others resize uint8 by way of floats
            assert torch.equal(one.images, two.images)
        assert float(found.max()) <= (LEVEL if colour == 0 else 3 * LEVEL)


@pytest.mark.parametrize(
    "lengths", [(700, 512), (512, 700), (97, 13), (13, 97), (640, 16), (5, 5), (1, 9), (9, 1), (900, 2)]
)
def test_resizing_is_that_of_torch(lengths: tuple[int, int]) -> None:
    before, after = lengths
    image = torch.rand(1, 2, before, 30, generator=generator(0))
    change = Change((0, 0, before, 30), (after, 41), (after, 41), False, 1.0, None)
    found = Windows.of([image[0]], [change]).images("cpu")
    expected = functional.interpolate(image.double(), (after, 41), mode="bilinear", antialias=True)
    torch.testing.assert_close(found.double(), expected, atol=2e-6, rtol=0)


def test_padding_is_grey_for_photographs_and_else_the_mean_of_each_band() -> None:
    change = Change((0, 0, 8, 6), (8, 6), (10, 9), True, 1.0, None)
    for kind, bands in ((torch.uint8, 3), (torch.uint8, 4), (torch.uint16, 3), (torch.float32, 1)):
        image = picture(kind, bands, 8, 6, 3)
        (found,) = Windows.of([image], [change]).images("cpu")
        whole = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(kind, 1.0)
        torch.testing.assert_close(found[:, :8, 3:], (image.double() / whole).float().flip(-1))
        means = image.double().mean((1, 2))
        means = torch.full((3,), 114.0) if kind == torch.uint8 and bands == 3 else means
        means = (means.floor() if kind == torch.uint8 else means) / whole
        for padded in (found[:, 8:].flatten(1), found[:, :, :3].flatten(1)):
            torch.testing.assert_close(padded.double(), means.double()[:, None].expand_as(padded), rtol=1e-6, atol=1e-6)


def labelled(count: int) -> tuple[list[Sample], dict[str, Task]]:
    """Photographs of several sizes, with masks for all but the second, depth and boxes for every other."""
    tasks: dict[str, Task] = {
        "semantic": Semantic("semantic", classes=5),
        "depth": Depth("depth"),
        "objects": Detection("objects", classes=2),
    }
    samples = []
    for k in range(count):
        size = (60 + 7 * k, 80 - 5 * k)
        annotations: dict[str, Tensor] = {}
        if k != 1:
            ids = torch.randint(0, 5, size, dtype=torch.uint8, generator=generator(k))
            annotations["semantic"] = tasks["semantic"].wrap(ids, size)
        if k % 2:
            depth = 1 + 9 * torch.rand(size, generator=generator(k))
            annotations["depth"] = tasks["depth"].wrap(depth, size)
            boxes = torch.tensor([[3.0, 4.0, 20.0, 17.0, 1.0], [9.0, 2.0, 30.0, 30.0, 0.0]])
            annotations["objects"] = Boxes.of(boxes, size)
        samples.append(Sample(str(k), picture(torch.uint8, 3, *size, k, True), annotations))
    return samples, tasks


def same_targets(one: Batch | Pending, two: Batch | Pending) -> None:
    assert list(one.ids) == list(two.ids)
    assert one.targets.keys() == two.targets.keys()
    for name in one.targets:
        assert torch.equal(one.targets[name].rows, two.targets[name].rows)
        assert torch.equal(one.targets[name].value, two.targets[name].value)


def test_labels_are_the_same() -> None:
    samples, tasks = labelled(5)
    for seed in range(6):
        one, two = both(Augment(None, crop=[50, 48], scale=(0.5, 2.0)), samples, tasks, seed)
        assert one.targets.keys() == tasks.keys()
        same_targets(one, two)
        assert float(differences(one.images, two.images).max()) <= LEVEL


@pytest.mark.parametrize("kinds", [(torch.uint8, torch.uint16, torch.uint8), (torch.float32, torch.uint8)])
def test_images_of_several_types_share_a_batch(kinds: tuple[torch.dtype, ...]) -> None:
    samples = [Sample(str(k), picture(kind, 3, 40 + k, 50, k), {}) for k, kind in enumerate(kinds)]
    one, two = both(Augment(None, crop=[30, 44]), samples, {})
    for kind, found, peak in zip(kinds, differences(one.images, two.images), one.images, strict=True):
        assert float(found.max()) <= (LEVEL if kind == torch.uint8 else 1e-5 * float(peak.abs().max()))


def test_windows_leave_the_workers_in_the_type_of_the_files_and_no_larger_than_needed() -> None:
    samples, tasks = labelled(3)
    augment = Augment(None, scale=(2.0, 2.0), crop=[40, 48])
    cut = collate_windows([augment.cut(sample, tasks, generator(0)) for sample in samples], tasks)
    (windows,) = cut.parts
    assert windows.pixels.dtype == torch.uint8
    assert list(windows.pixels.shape) == [3, 3, 20, 24]
    assert windows.extents.tolist() == [[20, 24, 40, 48]] * 3


@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16, torch.float32])
def test_nothing_is_read_back_from_the_device(kind: torch.dtype) -> None:
    """The meta device has no values: whatever asks for one raises."""
    samples = [Sample(str(k), picture(kind, 3, 40 + k, 50, k), {}) for k in range(2)]
    samples.append(Sample("other", picture(torch.uint8, 3, 20, 30, 9), {}))
    cut = [Augment(None, crop=[30, 44]).cut(sample, {}, generator(0)) for sample in samples]
    made = collate_windows(cut, {}).made("meta")
    assert made.images.device.type == "meta"
    assert list(made.images.shape) == [3, 3, 30, 44]
    with pytest.raises(RuntimeError, match="meta"):
        made.images.tolist()


def test_results_of_several_sizes_are_named() -> None:
    cut = [
        Augment(None).cut(Sample(name, picture(torch.uint8, 3, 9, width, 0), {}), {}, generator(0))
        for name, width in (("a", 12), ("b", 16))
    ]
    with pytest.raises(DataError, match=r"'a' \[3, 9, 12\] and 'b' \[3, 9, 16\] differ in size .*data\.size"):
        collate_windows(cut, {})


class Photographs(Dataset):
    """Labelled photographs of several sizes, many times over; some cannot be read."""

    def __init__(self, *damaged: int) -> None:
        self.samples, self.readers = labelled(5)
        self.ids = [str(index) for index in range(220)]
        self.damaged = damaged

    def __getitem__(self, index: int) -> Sample:
        if index in self.damaged:
            raise UnreadableError(f"{index}: found an empty file")
        sample = self.samples[index % 5]
        return Sample(self.ids[index], sample.image, sample.annotations)

    def annotation(self, index: int, task: str) -> Tensor | None:
        return self.samples[index % 5].annotations.get(task)

    def labelled(self, task: str) -> int:
        return sum(self.annotation(index, task) is not None for index in range(len(self)))

    def fingerprint(self) -> str:
        return "photographs"


def stream(count: int, *damaged: int, device: bool = True, **options: Any) -> list[Effective]:
    data = Photographs(*damaged)
    augment = Augment(None, crop=[40, 44], device=device)
    loader = Loader(data, data.readers, augment, **{"batch_size": 4, "seed": 3, **options})
    return list(islice(iter(loader), count))


def same(one: Effective, two: Effective, tolerance: float) -> None:
    assert (one.step, one.epoch, len(one.micro)) == (two.step, two.epoch, len(two.micro))
    for a, b in zip(one.micro, two.micro, strict=True):
        same_targets(a, b)
        assert float(differences(a.images, b.images).max()) <= tolerance


def test_the_stream_is_that_of_the_workers() -> None:
    for options in ({}, {"batch_size": 2, "accumulate": 3}, {"start_step": 4}):
        for one, two in zip(stream(5, device=False, **options), stream(5, **options), strict=True):
            same(one, two, LEVEL)


def test_it_depends_on_neither_workers_nor_start_nor_micro_batches() -> None:
    whole = stream(6)
    for workers, start in ((1, 0), (2, 0), (2, 3)):
        for one, two in zip(whole[start:], stream(6 - start, workers=workers, start_step=start), strict=True):
            same(one, two, 0)
    for one, two in zip(whole, stream(6, batch_size=2, accumulate=2), strict=True):
        joined = torch.cat([batch.images for batch in two.micro])
        torch.testing.assert_close(one.micro[0].images, joined, rtol=0, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_goes_on_without_an_image_that_cannot_be_read(workers: int) -> None:
    missing = int(stream(1)[0].micro[0].ids[1])
    (step,) = stream(1, missing, workers=workers)
    (whole,) = stream(1)
    assert list(step.micro[0].ids) == [id for id in whole.micro[0].ids if id != str(missing)]
    torch.testing.assert_close(step.micro[0].images, whole.micro[0].images[[0, 2, 3]], rtol=0, atol=1e-6)


def test_a_run_trains_alike_and_goes_on_either_way(tmp_path: Path) -> None:
    """The network sees one level of difference at most, the losses as good as none; it may change on --resume."""

    def config(count: int, device: bool) -> Any:
        data = {"augment": {"crop": [40, 64], "device": device}}
        return tiny(data=data, train={"steps": count, "accumulate": 2, "batch_size": 2})

    found = {}
    for device in (False, True):
        folder, _ = build.train(config(3, device), f"device-{device}", tmp_path, quiet=True)
        found[device] = steps(folder)
    for one, two in zip(found[False], found[True], strict=True):
        for key, value in one.items():
            if key.startswith("loss/"):
                assert two[key] == pytest.approx(value, rel=1e-3), key
    folder, _ = build.train(config(5, False), "device-True", tmp_path, resume=True, quiet=True)
    assert [line["step"] for line in steps(folder)] == [0, 1, 2, 3, 4]
    with pytest.raises(CheckpointError, match=r"data\.augment was"):
        build.train(tiny(data={"augment": {"crop": [40, 60], "device": True}}), "device-True", tmp_path, resume=True)
