"""Image and annotations must move together, and depth as a camera's would."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from segweave.batch import Sample
from segweave.data.augment import Augment, Resize
from segweave.errors import ConfigError
from segweave.tasks import Classification, Depth, Semantic
from segweave.tasks.task import Task

HEIGHT, WIDTH = 60, 84


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramps(height: int = HEIGHT, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """Row and column of every pixel's centre."""
    rows = (torch.arange(height) + 0.5)[:, None].expand(height, width)
    columns = (torch.arange(width) + 0.5)[None].expand(height, width)
    return rows, columns


def coordinates() -> tuple[Sample, dict[str, Task]]:
    """An image whose channels are its pixels' coordinates, and two dense annotations with the same numbers."""
    rows, columns = ramps()
    image = torch.stack([rows / HEIGHT, columns / WIDTH, torch.ones(HEIGHT, WIDTH)])
    tasks: dict[str, Task] = {
        "rows": Depth("rows", max_depth=1000, min_depth=0.1, rescale=False),
        "columns": Depth("columns", max_depth=1000, min_depth=0.1, rescale=False),
        "ids": Semantic("ids", classes=WIDTH),
    }
    annotations = {
        "rows": tasks["rows"].wrap(rows.contiguous(), (HEIGHT, WIDTH)),
        "columns": tasks["columns"].wrap(columns.contiguous(), (HEIGHT, WIDTH)),
        "ids": tasks["ids"].wrap(columns.floor().to(torch.uint8).contiguous(), (HEIGHT, WIDTH)),
    }
    return Sample("a", image, annotations), tasks


@pytest.mark.parametrize("size", [None, [45, 61], [90, 120]])
@pytest.mark.parametrize("scale", [None, (0.5, 2.0)])
@pytest.mark.parametrize("crop", [None, [40, 40], [70, 100]])
def test_image_and_annotations_show_the_same_places(
    size: list[int] | None, scale: tuple[float, float] | None, crop: list[int] | None
) -> None:
    sample, tasks = coordinates()
    augment = Augment(size, scale=scale, crop=crop, flip=0.5, colour=0)
    for seed in range(8):
        moved = augment(sample, tasks, generator(seed))
        expected = crop or size or [HEIGHT, WIDTH]
        assert list(moved.image.shape[-2:]) == expected
        for name in tasks:
            assert list(moved.annotations[name].shape) == expected
        inside = torch.as_tensor(moved.annotations["rows"]) > 0
        for name, channel, whole in (("rows", 0, HEIGHT), ("columns", 1, WIDTH)):
            found = torch.as_tensor(moved.annotations[name])[inside]
            difference = moved.image[channel][inside] * whole - found
            # nearest against linear: half a source pixel at most, more only where a strong reduction averages;
            # a systematic shift shows in the mean: ties leave up to 1/6, nearest with a floor 1/3 and more
            assert difference.abs().max() < 1.6
            assert abs(float(difference.mean())) < 0.2
        ids = torch.as_tensor(moved.annotations["ids"])
        assert torch.equal(ids[inside].float() + 0.5, torch.as_tensor(moved.annotations["columns"])[inside])
        assert bool((ids[~inside] == 255).all())


def test_a_flip_happens_as_often_as_asked() -> None:
    sample, tasks = coordinates()
    for probability, low, high in ((0.0, 0, 0), (1.0, 200, 200), (0.5, 70, 130)):
        augment = Augment(None, scale=None, flip=probability, colour=0)
        first = [float(augment(sample, tasks, generator(seed)).annotations["columns"][0, 0]) for seed in range(200)]
        assert low <= sum(value > WIDTH / 2 for value in first) <= high


def test_depth_follows_the_zoom_as_a_camera_would() -> None:
    """A thing of known width w at depth z covers f w / z pixels: pixels times depth must not change with the zoom."""
    focal, metres = 50.0, 8.0
    depth = torch.full((HEIGHT, WIDTH), metres)
    image = torch.zeros(3, HEIGHT, WIDTH)
    image[:, 24:36, 30:54] = 1.0
    task = Depth("depth")
    sample = Sample("a", image, {"depth": task.wrap(depth, (depth.shape[0], depth.shape[1]))})
    width = 24 / focal * metres
    seen = set()
    for seed in range(30):
        augment = Augment(None, scale=(0.5, 1.6), flip=0.5, colour=0)
        moved = augment(sample, {"depth": task}, generator(seed))
        target = task.encode(moved.annotations["depth"])
        if any(bool((edge == 1).any()) for edge in (moved.image[0, :, 0], moved.image[0, :, -1])):
            continue
        pixels = float(torch.where(target > 0, moved.image[0], 0).amax(0).sum())
        found = float(target[target > 0].median())
        if pixels > 1:
            seen.add(round(found, 3))
            assert pixels / focal * found == pytest.approx(width, rel=0.08)
    assert len(seen) > 8
    fixed = Depth("depth", rescale=False)
    moved = Augment(None, scale=(1.4, 1.4), colour=0)(sample, {"depth": fixed}, generator(0))
    assert fixed.encode(moved.annotations["depth"]).unique().tolist() == [metres]


def test_depth_uses_the_zoom_that_whole_pixels_leave() -> None:
    task = Depth("depth")
    sample = Sample("a", torch.zeros(3, 10, 10), {"depth": task.wrap(torch.full((10, 10), 8.0), (10, 10))})
    moved = Augment(None, scale=(1.3, 1.3), colour=0, flip=0)(sample, {"depth": task}, generator(0))
    # round(10 / 1.3) = 8 source pixels fill round(8 * 1.3) = 10: a zoom of 1.25, not 1.3
    assert task.encode(moved.annotations["depth"]).unique().tolist() == pytest.approx([8.0 / 1.25])


def test_presence_is_what_the_crop_shows() -> None:
    task = Classification("presence", classes=3, derive="presence")
    labels = torch.zeros(40, 40, dtype=torch.uint8)
    labels[:16, :16] = 2
    sample = Sample("a", torch.zeros(3, 40, 40), {"presence": task.wrap(labels, (labels.shape[0], labels.shape[1]))})
    augment = Augment(None, scale=(2.0, 2.0), flip=0, colour=0)
    found = {
        tuple(task.encode(augment(sample, {"presence": task}, generator(s)).annotations["presence"]).tolist())
        for s in range(30)
    }
    assert found == {(1.0, 0.0, 0.0), (1.0, 0.0, 1.0)}


def test_colour_stays_in_range_and_touches_no_annotation() -> None:
    task = Semantic("semantic", classes=4)
    labels = torch.randint(0, 4, (20, 20), dtype=torch.uint8, generator=generator(3))
    image = torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8, generator=generator(4))
    augment = Augment(None, scale=None, flip=0, colour=0.9)
    means = []
    for seed in range(10):
        moved = augment(
            Sample("a", image, {"semantic": task.wrap(labels, (labels.shape[0], labels.shape[1]))}),
            {"semantic": task},
            generator(seed),
        )
        assert moved.image.dtype == torch.uint8
        assert torch.equal(torch.as_tensor(moved.annotations["semantic"]), labels)
        means.append(float(moved.image.float().mean()))
    assert max(means) - min(means) > 20


def test_the_same_generator_gives_the_same_pixels() -> None:
    sample, tasks = coordinates()
    augment = Augment([50, 70], crop=[40, 40])
    one, two, other = (augment(sample, tasks, generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(one.image, two.image)
    assert all(torch.equal(one.annotations[name], two.annotations[name]) for name in tasks)
    assert not torch.equal(one.image, other.image)


def test_16_bit_and_many_bands_pass() -> None:
    wide = torch.full((5, 8, 8), 40000, dtype=torch.int32).to(torch.uint16)
    moved = Augment([6, 6], colour=0.5)(Sample("a", wide, {}), {}, generator(0))
    inside = moved.image[moved.image != 114 / 255]
    assert moved.image.shape == (5, 6, 6)
    torch.testing.assert_close(inside, torch.full_like(inside, 40000 / 65535))
    assert Resize([4, 4])(wide).unique().tolist() == pytest.approx([40000 / 65535])


@pytest.mark.parametrize(
    "options", [{"scale": (0, 1)}, {"scale": (2, 1)}, {"scale": (1,)}, {"flip": 1.5}, {"colour": 1}, {"flip": -0.1}]
)
def test_values_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match=r"data\.augment"):
        Augment(None, **options)


def test_scale_is_drawn_log_uniformly() -> None:
    task = Depth("depth")
    sample = Sample("a", torch.zeros(3, 400, 400), {"depth": task.wrap(torch.full((400, 400), 10.0), (400, 400))})
    augment = Augment(None, scale=(0.5, 2.0), colour=0)
    zooms = []
    for seed in range(120):
        target = task.encode(augment(sample, {"depth": task}, generator(seed)).annotations["depth"])
        zooms.append(math.log2(10 / float(target.max())))
    assert -1 <= min(zooms) < -0.8
    assert 0.8 < max(zooms) <= 1.0
    assert abs(sum(zooms) / len(zooms)) < 0.15
