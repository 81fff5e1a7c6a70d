"""Damaged files in every format: a message that names the file, never a bare traceback, never a label changed silently.

The data are those of `made(root)` of each format's test file, read as `segweave check` reads them.
"""

from __future__ import annotations

import re
import resource
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segweave.data import FORMATS
from segweave.data.dataset import Dataset
from segweave.data.findings import find
from segweave.data.inventory import take_inventory
from segweave.data.layout import RASTERS
from segweave.data.survey import Record, survey
from segweave.errors import SegweaveError
from segweave.tasks.task import Task

VARIANTS = [
    *((name, "made") for name in FORMATS if name != "synthetic"),  # which has no files
    ("nyuv2", "made_arrays"),
    ("nyuv2", "made_mat"),
]
IDS = [name if how == "made" else f"{name} {how}" for name, how in VARIANTS]


@dataclass
class Seen:
    """What `check` sees of all splits: digests of labels and images, and what it says."""

    labels: dict[tuple[str, ...], bytes] = field(default_factory=dict)
    images: dict[tuple[str, ...], bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    datasets: dict[str, Dataset] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)

    def findings(self, tasks: Sequence[Task]) -> list[str]:
        sizes = {split: len(dataset) for split, dataset in self.datasets.items()}
        found = find(take_inventory(self.records, sizes, tasks), tasks, 1, one_size=False)
        return [f"{finding.level}: {finding.text}" for finding in found]


Made = tuple[dict[str, Any], Sequence[Task]]


def make(variant: tuple[str, str], root: Path) -> Made:
    name, how = variant
    return getattr(import_module(f"test_{name}"), how)(root)


def look(name: str, made: Made) -> Seen:
    """As `check` goes about it: every split, every image and label; only errors that users get are caught."""
    options, tasks = made
    seen, waiting = Seen(), ["train", "val"]
    for split in waiting:
        try:
            seen.datasets[split] = FORMATS.load(name)(split, tasks, **options)
        except SegweaveError as error:
            seen.messages.append(str(error))
            continue
        waiting += [other for other in seen.datasets[split].splits if other not in waiting]
    seen.notes += [note for dataset in seen.datasets.values() for note in dataset.notes]
    for record in survey(seen.datasets, tasks, 0):
        seen.records.append(record)
        seen.messages += record.errors
        seen.notes += [*record.notes, *(doubt for doubts in record.doubts.values() for doubt in doubts)]
        seen.labels |= {(record.split, record.id, task): digest for task, digest in record.digests.items()}
        if record.look:
            seen.images[record.split, record.id] = record.look.digest
    return seen


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(path: Path) -> bytes:
    """A header of 16384 x 16384 pixels and hardly anything behind it."""
    if path.suffix == ".npy":
        head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (16384, 16384), }\n"
        return b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head + bytes(64)
    header = chunk(b"IHDR", struct.pack(">II5B", 16384, 16384, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


VRT = b'<VRTDataset rasterXSize="30" rasterYSize="20"><VRTRasterBand band="1" dataType="Byte"><SimpleSource>' + (
    b'<SourceFilename relativeToVRT="0">/etc/passwd</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>'
)
DAMAGES: dict[str, Callable[[Path], bytes]] = {
    "cut": lambda path: path.read_bytes()[: path.stat().st_size // 2],
    "empty": lambda _: b"",
    "text": lambda _: VRT,
    "bytes": lambda _: bytes(range(256)),
    "deep": lambda _: b"[" * 1200,
    "bomb": bomb,
}
_OF_RASTERS = ("cut", "empty", "text", "bomb")
_OF_TEXTS: dict[str, tuple[str, ...]] = {
    # half of a JSON or XML file is none, while half of a list is a list: that cannot be told
    **dict.fromkeys((".json", ".geojson"), ("cut", "empty", "text", "bytes", "deep")),
    ".xml": ("cut", "empty", "bytes", "deep"),
    ".mat": ("cut", "empty", "text", "bytes"),
    ".yaml": ("empty", "bytes", "deep"),
    **dict.fromkeys((".txt", ".csv", ".tsv"), ("empty", "bytes")),
}
MEANT = {("yolo", "empty")}
"""An empty file of Ultralytics' says that an image shows no object."""


def applies(damage: str, path: Path) -> bool:
    return damage in (_OF_RASTERS if path.suffix in RASTERS else _OF_TEXTS[path.suffix])


def one_of_each(root: Path, ids: Sequence[str]) -> list[Path]:
    """A file of each folder and kind of name, ids and numbers aside, of different images; hidden ones are not read."""
    kinds: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            rest = next((path.name.replace(id, "") for id in ids if id in path.name), path.name)
            kind = re.sub(r"\d+", "", path.parent.name), re.sub(r"\d+", "", rest)
            kinds.setdefault(kind, []).append(path)
    return [paths[place % len(paths)] for place, paths in enumerate(kinds.values())]


def of_samples(seen: Seen, tasks: Sequence[Task]) -> set[Path | None]:
    """The files and folders of images and labels."""
    names = [None, *(task.name for task in tasks)]
    return {d.file(index, name) for d in seen.datasets.values() for index in range(len(d)) for name in names}


def damaged(variant: tuple[str, str], made: Made, before: Seen, damage: str, paths: Sequence[Path]) -> Seen:
    """The data with these files damaged. Of them alone errors tell, and nothing else of the data changes."""
    whole = {path: path.read_bytes() for path in paths}
    for path in paths:
        path.write_bytes(DAMAGES[damage](path))
    after = look(variant[0], made)
    for path, content in whole.items():
        path.write_bytes(content)
    place = f"{damage}: {[path.name for path in paths]}: {after.messages}"
    for message in after.messages:
        assert any(str(path) in message for path in paths), place
        assert len(message) < 800, place
        assert "\n" not in message, place
    known = before.labels | before.images
    assert all(digest == known[key] for key, digest in (after.labels | after.images).items()), place
    for record in after.records:
        own = {task for split, id, task in before.labels if (split, id) == (record.split, record.id)}
        lost = own - record.digests.keys()
        assert bool(lost or record.look is None) <= bool(record.errors), place
    assert bool(known.keys() - after.labels.keys() - after.images.keys()) <= bool(after.messages), place
    return after


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_a_damaged_file_is_named_and_changes_no_label(variant: tuple[str, str], tmp_path: Path) -> None:
    made = make(variant, tmp_path)
    before = look(variant[0], made)
    assert not before.messages
    paths = one_of_each(tmp_path, [record.id for record in before.records])
    own = of_samples(before, made[1])
    samples = [path for path in paths if path in own or path.parent in own or path.suffix in RASTERS]
    for damage in DAMAGES:
        hit = [path for path in samples if applies(damage, path) and (variant[0], damage) not in MEANT]
        after = damaged(variant, made, before, damage, hit)
        for path in {*hit} & own:
            assert any(str(path) in message for message in after.messages), f"{path}, {damage}"
    # of names that differ in a city only, one
    others = {re.sub(r"^[a-z]+__+", "", re.sub(r"\d+", "", path.name)): path for path in paths if path not in samples}
    for path in others.values():
        for damage in DAMAGES:
            if applies(damage, path):
                damaged(variant, made, before, damage, [path])


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_no_memory_is_made_for_what_a_header_declares(variant: tuple[str, str], tmp_path: Path) -> None:
    """16384 x 16384 pixels of three bytes would be 0.8 GB, or 1 GB as Pillow holds them."""
    made = make(variant, tmp_path)
    data = FORMATS.load(variant[0])("train", made[1], **made[0])
    files = {data.file(0)} | {data.file(index, task.name) for task in made[1] for index in range(len(data))}
    paths = [path for path in files if path and path.suffix in RASTERS]
    if not paths:
        pytest.skip("its rasters lie in one file, which has a test of its own")
    for path in paths:
        path.write_bytes(bomb(path))
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    messages = look(variant[0], made).messages
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert any("16384 x 16384" in message or "unreadable" in message for message in messages)
    assert peak < 20e6
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 200_000  # KiB, on Linux


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_odd_names_of_folders_work(variant: tuple[str, str], tmp_path: Path) -> None:
    plain, odd = (look(variant[0], make(variant, tmp_path / name)) for name in ("plain", "-ünï cödé 日本 [x] 100%"))
    assert not odd.messages
    assert odd.labels == plain.labels
    assert odd.images == plain.images


def photo(variant: tuple[str, str], made: Made) -> tuple[Dataset, int, Path]:
    """A photograph of train, with a label of pixels where there is one. Skips the test where images are none."""
    data = FORMATS.load(variant[0])("train", made[1], **made[0])
    dense = [task.name for task in made[1] if task.dense]
    index = next((i for i in range(len(data)) if dense and all(data.has_label(i, name) for name in dense)), 0)
    path = data.file(index)
    if path is None or path.suffix == ".npy" or "bands" in made[0]:
        pytest.skip("no photographs")
    return data, index, path


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_other_kinds_of_image_are_converted_exactly_and_told(variant: tuple[str, str], tmp_path: Path) -> None:
    data, index, path = photo(variant, make(variant, tmp_path))
    rng, (width, height) = np.random.default_rng(0), Image.open(path).size
    colour = rng.integers(0, 256, (height, width, 3), np.uint8)
    wide = rng.integers(0, 65536, (height, width)).astype(np.uint16)
    alpha = rng.integers(0, 256, (height, width), np.uint8)
    exact = torch.from_numpy(colour).permute(2, 0, 1)
    for image, kind, expected, note in (
        (Image.fromarray(colour[..., 1]), "PNG", exact[1].expand(3, -1, -1), "grey repeated to 3 channels"),
        (Image.fromarray(np.dstack([colour, alpha])), "PNG", exact, "RGBA: alpha dropped"),
        (Image.fromarray(colour).convert("CMYK"), "TIFF", exact, "CMYK converted to RGB"),
        (Image.fromarray(wide), "PNG", torch.from_numpy(wide).expand(3, -1, -1), "16-bit"),
    ):
        image.save(path, kind)  # whatever the suffix says: the content counts
        data.notes.clear()
        assert torch.equal(data[index].image, expected)
        assert data.notes[note] == 1


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_a_turned_photo_is_told_and_labels_of_the_unturned_one_are_refused(
    variant: tuple[str, str], tmp_path: Path
) -> None:
    made = make(variant, tmp_path)
    data, index, path = photo(variant, made)
    dense = [task.name for task in made[1] if task.dense]
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
    for orientation, upright in ((3, pixels.flip(1, 2)), (6, pixels.transpose(1, 2).flip(2))):
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path, "PNG", exif=exif)
        assert torch.equal(data.image(index), upright)
        assert data.notes[f"EXIF orientation {orientation} applied"]
    if variant[0] == "yolo":
        return  # shares of the width and height fit either way
    with pytest.raises(SegweaveError, match="expected") as caught:
        data[index]
    assert str(path) in str(caught.value)
    if data.file(index, dense[0]) in (None, *path.parents, *path.parent.parent.iterdir()):
        return  # a folder of masks
    exif[274] = 3
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path, "PNG", exif=exif)
    assert "the photo is turned by its EXIF and the label is not; save both upright" in look(variant[0], made).notes


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_an_image_of_train_that_is_also_in_val_is_told(variant: tuple[str, str], tmp_path: Path) -> None:
    made = make(variant, tmp_path)
    train, val = (FORMATS.load(variant[0])(split, made[1], **made[0]) for split in ("train", "val"))
    source, target = train.file(len(train) - 1), val.file(0)
    if source is None or target is None:
        pytest.skip("images lie in one file")
    target.write_bytes(source.read_bytes())
    findings = look(variant[0], made).findings(made[1])
    pair = rf"train/{re.escape(train.ids[-1])} and val/{re.escape(val.ids[0])}"
    assert any(re.search(rf"^warning: \d images? of val also in train .*{pair}", text) for text in findings), findings


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_a_label_file_that_is_gone_is_no_label(variant: tuple[str, str], tmp_path: Path) -> None:
    made = make(variant, tmp_path)
    kind = FORMATS.load(variant[0])
    data = kind("train", made[1], **made[0])
    gone = 0
    for task in made[1]:
        labels = {index: data.file(index, task.name) for index in range(len(data))}
        index = next((i for i, path in labels.items() if path and path.is_file()), None)
        path = None if index is None else labels[index]
        if index is None or path is None or path == data.file(index):
            continue
        whole = path.read_bytes()
        path.unlink()
        try:
            again = kind("train", made[1], **made[0])
            found = again.annotation(index, task.name)
        except SegweaveError as error:
            message = str(error)
            assert variant[0] == "table", message
            assert f"no file '{path.relative_to(tmp_path)}'" in message
            gone += 1
            continue
        finally:
            path.write_bytes(whole)
        if variant[0] == "yolo":  # an image without a file shows no object, as Ultralytics has it
            assert found is not None
            assert not found.as_subclass(torch.Tensor).any()
        elif variant[0] != "pascal_context":  # two folders may have the file
            assert found is None
            assert again.labelled(task.name) == data.labelled(task.name) - 1
        gone += 1
    assert gone or variant in (("dsb2018", "made"), ("nyuv2", "made_mat"))
