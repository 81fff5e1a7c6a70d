"""Image and annotations must move together, and depth as a camera's would."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from segweave import build
from segweave.batch import Sample
from segweave.data.augment import Augment, Resize, recolour
from segweave.data.dataset import Dataset
from segweave.data.loader import Loader
from segweave.errors import ConfigError
from segweave.tasks import Classification, Depth, Semantic
from segweave.tasks.task import Task
from tiny import tiny

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
        assert 0 <= float(moved.image.min()) <= float(moved.image.max()) <= 1
        assert torch.equal(torch.as_tensor(moved.annotations["semantic"]), labels)
        means.append(float(moved.image.mean()))
    assert max(means) - min(means) > 0.08


@pytest.mark.parametrize("whole", [True, False])
def test_colour_is_that_of_torchvision(whole: bool) -> None:
    image = torch.randint(0, 256, (4, 3, 40, 50), dtype=torch.uint8, generator=generator(0))
    image = image if whole else image / 255
    factors = torch.tensor([[1.23, 0.81, 1.17], [0.77, 1.19, 0.93], [1.5, 1.4, 0.2], [0.4, 0.6, 1.9]])
    found = recolour(image.to(torch.float32, copy=True), factors, whole)
    for made, given, (brightness, contrast, saturation) in zip(found, image, factors.tolist(), strict=True):
        expected = functional.adjust_contrast(functional.adjust_brightness(given, brightness), contrast)
        expected = functional.adjust_saturation(expected, saturation)
        difference = (made - expected.float()).abs()
        if whole:
            assert torch.equal(made, made.round())
            # where the exact value is a whole number, rounding down takes either
            assert float(difference.max()) <= 1
            assert float((difference > 0).float().mean()) < 0.01
        else:
            assert float(difference.max()) < 1e-5


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


def rare_sample(side: int = 64) -> tuple[Sample, dict[str, Task]]:
    """Class 0 but for two squares of 3 pixels: class 2 near the lower right corner, class 1 in the middle."""
    labels = torch.zeros(side, side, dtype=torch.uint8)
    labels[:2] = 255
    labels[side - 6 : side - 3, side - 5 : side - 2] = 2
    labels[30:33, 30:33] = 1
    tasks: dict[str, Task] = {"semantic": Semantic("semantic", classes=4), "depth": Depth("depth", rescale=False)}
    depth = tasks["depth"].wrap(1.0 + torch.arange(side * side).view(side, side).float() / 100, (side, side))
    semantic = tasks["semantic"].wrap(labels, (side, side))
    return Sample("a", torch.zeros(3, side, side), {"semantic": semantic, "depth": depth}), tasks


def rare_crops(rare: dict, seeds: int) -> list[Sample]:
    sample, tasks = rare_sample()
    augment = Augment(None, scale=None, crop=[12, 12], flip=0, colour=0, rare=rare)
    return [augment(sample, tasks, generator(seed)) for seed in range(seeds)]


def shows(sample: Sample, label: int) -> bool:
    return bool((torch.as_tensor(sample.annotations["semantic"]) == label).any())


@pytest.mark.parametrize("scale", [None, (0.5, 2.0)])
@pytest.mark.parametrize("label", [1, 2])
def test_a_rare_class_is_in_every_window_where_it_is_sure_to_be(scale: tuple[float, float] | None, label: int) -> None:
    sample, tasks = rare_sample()
    rare = {"task": "semantic", "chance": 1.0, "classes": [f"class {label}"]}
    augment = Augment(None, scale=scale, crop=[12, 12], colour=0, rare=rare)
    held = 0
    for seed in range(100):
        moved = augment(sample, tasks, generator(seed))
        assert list(moved.image.shape[-2:]) == [12, 12]
        held += shows(moved, label)
    # at half its size a single pixel at the edge of the window may be dropped
    assert held == 100 if scale is None else held > 85


def test_the_windows_that_hold_a_pixel_are_all_alike() -> None:
    """A single pixel lies at every place of a window of 12 equally often, up to chance; none is out of the image."""
    side, at = 64, (40, 20)
    labels = torch.zeros(side, side, dtype=torch.uint8)
    labels[at] = 1
    task = Semantic("semantic", classes=2)
    sample = Sample("a", torch.zeros(3, side, side), {"semantic": task.wrap(labels, (side, side))})
    rare = {"task": "semantic", "chance": 1.0, "classes": ["class 1"]}
    augment = Augment(None, scale=None, crop=[12, 12], flip=0, colour=0, rare=rare)
    rows, columns = torch.zeros(12), torch.zeros(12)
    for seed in range(1200):
        moved = augment(sample, {"semantic": task}, generator(seed)).annotations["semantic"]
        ((row, column),) = torch.as_tensor(moved).nonzero().tolist()
        rows[row] += 1
        columns[column] += 1
    # 100 each on average with a deviation of 9.6: chi-squared of 11 degrees is above 31.3 once in a thousand
    for found in (rows, columns):
        assert float(((found - 100) ** 2 / 100).sum()) < 31.3


def test_rare_crops_come_as_often_as_asked_and_auto_aims_at_all_classes_alike() -> None:
    plain = [shows(sample, 2) for sample in rare_crops({"task": "semantic", "chance": 0.0}, 400)]
    half = [shows(s, 2) for s in rare_crops({"task": "semantic", "chance": 0.5, "classes": ["class 2"]}, 400)]
    # by chance a window shows the square in 0.04 of all places
    assert sum(plain) < 40
    assert 165 < sum(half) < 255
    auto = rare_crops({"task": "semantic", "chance": 1.0}, 600)
    for label in (1, 2):
        # a third of the windows are aimed at each of the three classes that are there; class 3 is not, nor is 255
        assert 165 < sum(shows(sample, label) for sample in auto) < 290


def test_rare_crops_leave_all_else_as_it_was() -> None:
    """With chance 0 every pixel is that without the option; with 1 an image without the class or label too."""
    sample, tasks = rare_sample()
    plain = Augment(None, crop=[12, 12])
    never = Augment(None, crop=[12, 12], rare={"task": "semantic", "chance": 0.0})
    absent = Augment(None, crop=[12, 12], rare={"task": "semantic", "chance": 1.0, "classes": ["class 3"]})
    always = Augment(None, crop=[12, 12], rare={"task": "semantic", "chance": 1.0})
    unlabelled = Sample("a", sample.image, {"depth": sample.annotations["depth"]})
    for seed in range(10):
        pairs = [(never, plain, sample), (absent, plain, sample), (always, plain, unlabelled)]
        for one, two, given in pairs:
            a, b = one(given, tasks, generator(seed)), two(given, tasks, generator(seed))
            assert a.annotations.keys() == b.annotations.keys()
            assert all(torch.equal(a.annotations[name], b.annotations[name]) for name in a.annotations)
            assert torch.equal(a.image, b.image)


def test_rare_crops_are_a_function_of_the_generator_and_move_all_annotations() -> None:
    sample, tasks = rare_sample()
    augment = Augment(None, scale=None, crop=[12, 12], flip=0, rare={"task": "semantic", "chance": 1.0})
    for seed in range(10):
        one, two = (augment(sample, tasks, generator(seed)) for _ in range(2))
        assert all(torch.equal(one.annotations[name], two.annotations[name]) for name in tasks)
        depth = torch.as_tensor(one.annotations["depth"])
        top, left = divmod(round((float(depth[0, 0]) - 1) * 100), 64)
        whole = torch.as_tensor(sample.annotations["semantic"])
        assert torch.equal(torch.as_tensor(one.annotations["semantic"]), whole[top : top + 12, left : left + 12])


def test_a_binary_task_aims_at_its_class() -> None:
    task = Semantic("road", classes=["road"])
    labels = torch.zeros(64, 64, dtype=torch.uint8)
    labels[50, 50] = 1
    sample = Sample("a", torch.zeros(3, 64, 64), {"road": task.wrap(labels, (64, 64))})
    augment = Augment(None, scale=None, crop=[8, 8], rare={"task": "road", "chance": 1.0})
    for seed in range(20):
        assert int(torch.as_tensor(augment(sample, {"road": task}, generator(seed)).annotations["road"]).sum()) == 1


@pytest.mark.parametrize(
    ("rare", "message"),
    [
        ({}, r"data\.augment\.rare\.task: missing"),
        ({"task": "semantic", "share": 1}, r"data\.augment\.rare\.share: unknown key"),
        ({"task": "semantic", "chance": 1.5}, r"data\.augment\.rare\.chance: found 1\.5"),
        ({"task": "semantic", "classes": "class 1"}, r"data\.augment\.rare\.classes: found 'class 1'"),
        ({"task": "semantic", "classes": []}, r"data\.augment\.rare\.classes: found none"),
        ({"task": "semantics"}, r"data\.augment\.rare\.task: unknown task 'semantics'; did you mean 'semantic'"),
        ({"task": "depth"}, r"data\.augment\.rare\.task: 'depth' has no class per pixel"),
        ({"task": "semantic", "classes": ["class 9"]}, r"data\.augment\.rare\.classes: unknown class 'class 9'"),
    ],
)
def test_rare_crops_that_cannot_be_are_refused(rare: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augment(None, rare=rare).check(rare_sample()[1])


def test_a_loader_refuses_names_that_there_are_not_before_it_reads() -> None:
    class Unread(Dataset):
        ids = ("a",)

        def annotation(self, *_: object) -> Tensor | None:
            raise AssertionError

        __getitem__ = labelled = fingerprint = annotation

    augment = Augment(None, rare={"task": "semantics"})
    with pytest.raises(ConfigError, match=r"unknown task 'semantics'; did you mean 'semantic'"):
        Loader(Unread(), rare_sample()[1], augment)


def test_training_refuses_them_before_it_reads_the_data(tmp_path: Path) -> None:
    config = tiny(data={"augment": {"rare": {"task": "semantic", "classes": ["lorry"]}}})
    with pytest.raises(ConfigError, match=r"data\.augment\.rare\.classes: unknown class 'lorry'"):
        build.train(config, "run", tmp_path, quiet=True)
    assert not (tmp_path / "run").exists()
