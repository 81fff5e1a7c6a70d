"""A cache gives what the files give, to the last bit, and never what they gave before."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segweave import build
from segweave.batch import Sample
from segweave.config import from_values
from segweave.data import FORMATS
from segweave.data.augment import Augment, to_float
from segweave.data.cache import Cached
from segweave.data.dataset import Dataset, Wrapper
from segweave.data.folder import Folder
from segweave.data.loader import Loader
from segweave.errors import ConfigError, UnreadableError
from segweave.schema import check_config
from segweave.sources import build_tasks, cached
from segweave.tasks import Depth, Detection, Edges, Normals, Semantic
from segweave.tasks.boxes import Boxes
from segweave.tasks.task import Task
from tiny import lines, steps, tiny

DAMAGED = "cache: damaged entries, which were decoded again"


class Counted(Wrapper):
    """Another data set, and how often each of its samples was decoded."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self.decoded: list[int] = []

    def __getitem__(self, index: int) -> Sample:
        self.decoded.append(index)
        return self.dataset[index]


class Given(Dataset):
    """Samples that are in memory already."""

    def __init__(self, *samples: Sample) -> None:
        self.samples = samples
        self.ids = [sample.id for sample in samples]

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def annotation(self, index: int, task: str) -> Tensor | None:
        return self.samples[index].annotations.get(task)

    def labelled(self, task: str) -> int:
        return sum(task in sample.annotations for sample in self.samples)

    def fingerprint(self) -> str:
        return "given"


def same(one: Sample, two: Sample) -> None:
    """To the last bit, and in memory in the same order, on which the arithmetic of a resize may depend."""
    assert one.id == two.id
    assert one.annotations.keys() == two.annotations.keys()
    for a, b in [(one.image, two.image), *((one.annotations[n], two.annotations[n]) for n in one.annotations)]:
        assert type(a) is type(b)
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        assert content(a) == content(b)
        if isinstance(a, Boxes) and isinstance(b, Boxes):
            assert (a.canvas_size, dict(a.notes)) == (b.canvas_size, dict(b.notes))


def content(value: Tensor) -> bytes:
    """Also of NaN, which does not equal itself."""
    return value.as_subclass(Tensor).contiguous().numpy().tobytes()


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*/*"))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_comes_out_as_it_went_in(name: str, tmp_path: Path) -> None:
    options, tasks = import_module(f"test_{name}").made(tmp_path / "data")
    plain = FORMATS.load(name)("train", tasks, **options)
    counted = Counted(FORMATS.load(name)("train", tasks, **options))
    cache = Cached(counted, tasks, name, folder=str(tmp_path / "cache"))
    counted.dataset.notes.clear()  # of its making
    for index in range(len(plain)):
        plain.notes.clear()
        expected = plain[index]
        for _ in range(3):
            cache.notes.clear()
            same(cache[index], expected)
            assert cache.notes == plain.notes
    assert counted.decoded == list(range(len(plain)))
    assert len(entries(tmp_path / "cache")) == len(plain)
    by_name = {task.name: task for task in tasks}
    augment = Augment([12, 16], crop=[9, 11])
    streams = [Loader(data, by_name, augment, batch_size=2, seed=5) for data in (plain, cache)]
    for one, two in zip(*(islice(iter(stream), 4) for stream in streams), strict=True):
        for a, b in zip(one.micro, two.micro, strict=True):
            assert torch.equal(a.images, b.images)
            assert a.targets.keys() == b.targets.keys()
            assert all(torch.equal(a.targets[task].value, b.targets[task].value) for task in a.targets)


@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16, torch.float32])
@pytest.mark.parametrize("channels_last", [True, False])
def test_every_kind_of_image_and_label_survives(kind: torch.dtype, channels_last: bool, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (5, 30, 40), generator=generator)
    image = noise.to(kind).permute(1, 2, 0).contiguous().permute(2, 0, 1) if channels_last else noise.to(kind)
    tasks: list[Task] = [
        Semantic("semantic", classes=9),
        Depth("depth"),
        Edges("edges"),
        Normals("normals"),
        Detection("objects", classes=3),
    ]
    by_name = {task.name: task for task in tasks}
    depth = noise[0].float() + 0.1
    depth[3, 4] = float("nan")
    rows = torch.tensor([[1.25, 2, 60, 9, 2], [5, 5, 4, 9, 1]])  # one reaches over the border, one is inverted
    values = {
        "semantic": (noise[0] % 9).to(torch.uint8),
        "depth": depth,
        "edges": (noise[1] % 2).to(torch.uint8),
        "normals": torch.randn(3, 30, 40, generator=generator),
        "objects": rows,
    }
    annotations = {name: by_name[name].wrap(value, (30, 40)) for name, value in values.items()}
    annotations |= {"scene": torch.tensor(3), "several": torch.tensor([1.0, 0, 1])}
    nothing = {"objects": by_name["objects"].wrap(torch.zeros(0, 5), (30, 40))}
    given = Given(Sample("a", image, annotations), Sample("b", image, nothing))
    cache = Cached(given, tasks, "", folder=str(tmp_path))
    for _ in range(2):
        same(cache[0], given[0])
        same(cache[1], given[1])
    assert cache[0].annotations["objects"].notes == annotations["objects"].notes != {}  # pyright: ignore
    augment = Augment([40, 50], scale=(0.5, 2), crop=[24, 24])
    kinds: Mapping[str, Task] = by_name | {"scene": _Whole("scene"), "several": _Whole("several")}
    for seed in range(5):
        one, two = (augment(data[0], kinds, torch.Generator().manual_seed(seed)) for data in (given, cache))
        assert torch.equal(one.image, two.image)
        for name in annotations:
            assert content(one.annotations[name]) == content(two.annotations[name])


@pytest.mark.parametrize("channels_last", [True, False])
def test_sixteen_bits_are_converted_in_the_window_as_in_the_whole_image(channels_last: bool) -> None:
    """To the last bit, so that what is read of a mapped file changes no result."""
    noise = torch.randint(0, 65536, (3, 50, 60), generator=torch.Generator().manual_seed(1))
    noise = noise.permute(1, 2, 0).contiguous().permute(2, 0, 1) if channels_last else noise
    whole = noise.to(torch.uint16)
    augment = Augment([40, 50], scale=(0.4, 2.5), crop=[24, 32], colour=0)
    for seed in range(20):
        one, two = (
            augment(Sample("a", image, {}), {}, torch.Generator().manual_seed(seed)).image
            for image in (whole, to_float(whole))
        )
        assert torch.equal(one, two)


class _Whole(Semantic):
    """Stands for a task whose labels have no place in the image."""

    dense = False

    def __init__(self, name: str) -> None:
        super().__init__(name, classes=2)


def test_a_sample_that_is_changed_changes_no_entry(tmp_path: Path) -> None:
    cache = Cached(Given(Sample("a", torch.zeros(3, 4, 4, dtype=torch.uint8), {})), [], "", folder=str(tmp_path))
    for _ in range(3):
        image = cache[0].image
        assert not image.any()
    image += 1
    assert not cache[0].image.any()


def _in_another_process(sample: Sample, path: Path, kept: int, rows: slice) -> int | None:
    """Exit code of a process that lets go of what lies beyond the first bytes of an entry, and then looks at rows."""

    def look() -> None:
        faulthandler.disable()
        os.truncate(path, kept)
        torch.set_num_threads(1)
        os._exit(int(sample.image[:, rows, :100].to(torch.int64).sum()) % 2)

    process = multiprocessing.get_context("fork").Process(target=look)
    process.start()
    process.join()
    return process.exitcode


def test_a_crop_reads_its_own_part_of_the_file(tmp_path: Path) -> None:
    """A page beyond the end of a mapped file kills who touches it, so that a process that lives has not."""
    image = torch.full((1000, 1000, 3), 2, dtype=torch.uint8).permute(2, 0, 1)
    for rows, expected in ((slice(0, 50), 0), (slice(900, 950), -signal.SIGBUS)):
        folder = tmp_path / str(expected)
        cache = Cached(Given(Sample("a", image, {})), [], "", folder=str(folder))
        _ = cache[0]
        assert _in_another_process(cache[0], entries(folder)[0], 300_000, rows) == expected


def arrays(root: Path, size: int = 200) -> Folder:
    """Four images and masks, uncompressed, so that a changed value changes no other byte and no size."""
    if not root.exists():
        for name in ("images", "semantic"):
            (root / name).mkdir(parents=True)
        for i in range(4):
            np.save(root / "images" / f"{i}.npy", np.full((size, size, 3), i, np.uint8))
            np.save(root / "semantic" / f"{i}.npy", np.full((size, size), i, np.uint8))
    return Folder("train", [Semantic("semantic", classes=9)], root=str(root), splits={})


@pytest.mark.parametrize("layer", ["images", "semantic"])
@pytest.mark.parametrize("opened_again", [True, False])
def test_a_changed_file_is_never_served_as_it_was(layer: str, opened_again: bool, tmp_path: Path) -> None:
    """Not even where size, time of change and every block of the fingerprint are as before."""
    data = arrays(tmp_path / "data")
    cache = Cached(data, list(data.readers.values()), "", folder=str(tmp_path / "cache"))
    before = [cache[index] for index in range(4)]
    path = tmp_path / "data" / layer / "2.npy"
    facts, fingerprint = path.stat(), data.fingerprint()
    values = np.load(path)
    values[50, 7] = 5
    np.save(path, values)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert data.fingerprint() == fingerprint
    if opened_again:
        cache = Cached(data, list(data.readers.values()), "", folder=str(tmp_path / "cache"))
    changed = cache[2]
    same(changed, data[2])
    found = changed.image[:, 50, 7] if layer == "images" else changed.annotations["semantic"][50, 7]
    assert set(found.flatten().tolist()) == {5}
    same(cache[2], changed)
    for index in (0, 1, 3):
        same(cache[index], before[index])
    assert not cache.notes


def test_a_file_that_has_gone_is_missed_although_it_is_in_the_cache(tmp_path: Path) -> None:
    data = arrays(tmp_path / "data")
    cache = Cached(data, list(data.readers.values()), "", folder=str(tmp_path / "cache"))
    _ = cache[1]
    (tmp_path / "data" / "images" / "1.npy").unlink()
    with pytest.raises(UnreadableError, match=r"1\.npy"):
        _ = cache[1]


@pytest.mark.parametrize("place", [0, 17, 22, 30, 400, 70_000, -1])
def test_a_flipped_bit_is_found_and_the_entry_made_anew(place: int, tmp_path: Path) -> None:
    data = arrays(tmp_path / "data")
    tasks = list(data.readers.values())
    _ = Cached(data, tasks, "", folder=str(tmp_path / "cache"))[0]
    (path,) = entries(tmp_path / "cache")
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)
    cache = Cached(data, tasks, "", folder=str(tmp_path / "cache"))
    same(cache[0], data[0])
    assert cache.notes == {DAMAGED: 1}
    again = Counted(data)
    same(Cached(again, tasks, "", folder=str(tmp_path / "cache"))[0], data[0])
    assert again.decoded == []


@pytest.mark.parametrize("length", [0, 1, 23, 24, 200, 5000, -1])
def test_a_truncated_entry_is_found_also_while_it_is_used(length: int, tmp_path: Path) -> None:
    data = arrays(tmp_path / "data")
    cache = Cached(data, list(data.readers.values()), "", folder=str(tmp_path / "cache"))
    for _ in range(2):
        _ = cache[0]
    (path,) = entries(tmp_path / "cache")
    os.truncate(path, length % path.stat().st_size)
    same(cache[0], data[0])
    assert cache.notes == {DAMAGED: 1}
    same(cache[0], data[0])
    assert cache.notes == {DAMAGED: 1}


def test_what_does_not_fit_is_read_as_usual_and_told(tmp_path: Path) -> None:
    data = arrays(tmp_path / "data")
    tasks = list(data.readers.values())
    limit = 2.5 * 200 * 200 * 4  # bytes of two entries and a half
    for turn in range(3):
        counted = Counted(data)
        cache = Cached(counted, tasks, f"{turn}", folder=str(tmp_path / "cache"), max_gb=limit / 1e9)
        for index in (0, 1, 2, 3, 0):
            same(cache[index], data[index])
        kept = entries(tmp_path / "cache")
        assert len(kept) == 2
        assert sum(path.stat().st_size for path in kept) <= limit
        assert int((tmp_path / "cache" / "bytes").read_text()) == sum(path.stat().st_size for path in kept)
        assert len(cache.notes) == 1
        assert "is full" in next(iter(cache.notes))
        assert counted.decoded == ([0, 1, 2, 3] if turn == 0 else [0, 1, 2, 3, 0])


def test_the_state_of_the_data_decides_what_is_found(tmp_path: Path) -> None:
    """A loss reads nothing, other classes do; entries of the data as they were are removed, others stay."""

    def decoded(tasks: Sequence[Task], how: str = "") -> int:
        folder = arrays(tmp_path / "data")
        counted = Counted(Folder("train", tasks, root=str(folder.root), splits={}))
        cache = Cached(counted, tasks, how, folder=str(tmp_path / "cache"))
        for index in range(4):
            _ = cache[index]
        return len(counted.decoded)

    assert decoded([Semantic("semantic", classes=9)]) == 4
    assert decoded([Semantic("semantic", classes=9, loss="dice", weight=3.0)]) == 0
    assert decoded([Semantic("semantic", classes=9, ignore=3)]) == 4
    assert decoded([Semantic("semantic", classes=9)], "other options") == 4
    assert len(entries(tmp_path / "cache")) == 12
    np.save(tmp_path / "data" / "images" / "3.npy", np.full((199, 200, 3), 3, np.uint8))
    np.save(tmp_path / "data" / "semantic" / "3.npy", np.full((199, 200), 3, np.uint8))
    assert decoded([Semantic("semantic", classes=9)]) == 4
    assert len(entries(tmp_path / "cache")) == 12
    assert decoded([Semantic("semantic", classes=9, ignore=3)]) == 4


def _read_all(root: Path, folder: Path, seed: int, limit: float) -> None:
    data = arrays(root)
    cache = Cached(data, list(data.readers.values()), "", folder=str(folder), max_gb=limit)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed)).tolist()
    for index in [*order, *order]:
        same(cache[index], data[index])


@pytest.mark.parametrize(("limit", "kept"), [(1.0, 4), (2.5 * 160_000 / 1e9, 2)])
def test_processes_may_fill_one_folder_together(limit: float, kept: int, tmp_path: Path) -> None:
    arrays(tmp_path / "data")
    context = multiprocessing.get_context("fork")
    work = [(tmp_path / "data", tmp_path / "cache", seed, limit) for seed in range(4)]
    processes = [context.Process(target=_read_all, args=arguments) for arguments in work]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    sizes = [path.stat().st_size for path in entries(tmp_path / "cache")]
    assert len(sizes) == kept
    assert int((tmp_path / "cache" / "bytes").read_text()) == sum(sizes)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_share_it(workers: int, tmp_path: Path) -> None:
    data = arrays(tmp_path / "data")
    plain = Loader(data, data.readers, Augment([32, 32]), batch_size=2)
    cache = Cached(data, list(data.readers.values()), "", folder=str(tmp_path / "cache"), max_gb=400_000 / 1e9)
    stream = Loader(cache, data.readers, Augment([32, 32]), batch_size=2, workers=workers)
    for one, two in zip(islice(iter(plain), 6), islice(iter(stream), 6), strict=True):
        assert all(torch.equal(a.images, b.images) for a, b in zip(one.micro, two.micro, strict=True))
    assert len(stream.notes) == 1
    assert len(entries(tmp_path / "cache")) == 2


def test_training_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    plain, expected = build.train(tiny(), "plain", tmp_path, quiet=True)
    wanted = tiny(data={"cache": "decoded"})
    for name in ("first", "second"):
        folder, results = build.train(wanted, name, tmp_path, quiet=True)
        assert results == expected
        assert steps(folder) == steps(plain)
    assert len(entries(tmp_path / "home" / "segweave")) == 20  # twelve images for training and eight for validation


def test_the_wait_for_data_is_logged_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    genuine = Cached.__getitem__

    def slow(cache: Cached, index: int) -> Sample:
        time.sleep(0.05)
        return genuine(cache, index)

    monkeypatch.setattr(Cached, "__getitem__", slow)
    cache = {"name": "decoded", "folder": str(tmp_path / "cache")}
    folder, _ = build.train(tiny(data={"cache": cache}), "run", tmp_path)
    made = [line for line in lines(folder) if "seconds" in line]
    assert all(0.05 * line["images"] <= line["waited"] < line["seconds"] for line in made)
    share = sum(line["waited"] for line in made) / sum(line["seconds"] for line in made)
    shown = re.findall(r"waiting for data (\d+) % of the time", capsys.readouterr().out)
    assert int(shown[-1]) == pytest.approx(100 * share, abs=0.6)  # rounded to whole numbers


def test_a_run_goes_on_with_another_cache_or_none(tmp_path: Path) -> None:
    cache = {"name": "decoded", "folder": str(tmp_path / "cache")}
    build.train(tiny(data={"cache": cache}, train={"steps": 2}), "run", tmp_path, quiet=True)
    folder, _ = build.train(tiny(train={"steps": 4}), "run", tmp_path, resume=True, quiet=True)
    assert [line["step"] for line in steps(folder)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("cache", "words"),
    [
        ("encoded", r"data\.cache: found {'name': 'encoded'}; expected decoded"),
        (True, r"data\.cache: found True; expected decoded"),
        ({"folder": "x"}, r"data\.cache: .*expected decoded, or \{name: decoded\}"),
        ({"name": "decoded", "max_size": 3}, r"data\.cache\.max_size: unknown key; did you mean 'max_gb'"),
        ({"name": "decoded", "max_gb": "much"}, r"data\.cache\.max_gb: found 'much'; expected a number"),
    ],
)
def test_what_cannot_be_is_refused(cache: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny(data={"cache": cache})


def test_a_limit_or_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    given = Given(Sample("a", torch.zeros(3, 4, 4), {}))
    with pytest.raises(ConfigError, match=r"data\.cache\.max_gb: found -1"):
        Cached(given, [], "", folder=str(tmp_path), max_gb=-1)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"data\.cache\.folder: .*file: cannot be written"):
        Cached(given, [], "", folder=str(tmp_path / "file"))


def test_a_disk_that_is_full_only_ends_the_filling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = arrays(tmp_path / "data")
    cache = Cached(data, list(data.readers.values()), "", folder=str(tmp_path / "cache"))
    _ = cache[0]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("segweave.data.cache.whole_file", full)
    for index in range(4):
        same(cache[index], data[index])
    assert [note for note in cache.notes if "No space left on device" in note]
    assert sum(cache.notes.values()) == 1


def test_views_and_losses_share_entries_of_a_config(tmp_path: Path) -> None:
    def place(**data: Any) -> Path:
        cache = {"name": "decoded", "folder": str(tmp_path / "cache")}
        values = {"format": "folder", "root": str(tmp_path / "data"), "splits": {}, "cache": cache, **data}
        config = check_config(from_values({"data": values, "tasks": {"semantic": {"kind": "semantic", "classes": 9}}}))
        tasks = build_tasks(config)
        found = cached(config, "train", tasks, build.build_dataset(config, "train", tasks))
        assert isinstance(found, Cached)
        return found._path(0)

    arrays(tmp_path / "data")
    assert place() == place(augment=False) == place(sampling="uniform", augment={"flip": 0.1})
    assert place() != place(bands=3)
