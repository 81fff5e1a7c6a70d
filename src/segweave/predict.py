"""Images and folders to prediction files in the field's formats, and one composed picture an image."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from segweave import rasters
from segweave.build import choose_device, load_run
from segweave.data.augment import Resize
from segweave.data.layout import RASTERS, list_files, new_folder, suffix_of, without_suffix
from segweave.drawing import shown, thinned
from segweave.errors import ConfigError, DataError
from segweave.model import MultiTaskModel
from segweave.report.picture import Panel, compose
from segweave.tasks.task import Prediction, Task

_KINDS = ", ".join(sorted(RASTERS))
# What an image may need at most, beside its own pixels: above these it is worked on smaller, or in strips.
_NETWORK_PIXELS = 2**23
_VALUES = 2**25
_SHOWN = 1600


def find_images(sources: Sequence[str | Path]) -> list[tuple[str, Path]]:
    """`(id, path)` of every image that files, folders and globs name; an empty folder stands for itself.

    An id is the path below the folder (or below the fixed part of the glob), without suffix. Different files of one id
    get longer ones, from the folder they have in common, with their suffixes where only these differ.

    Raises:
        ConfigError: a source that does not exist.
    """
    found: dict[str, dict[Path, Path]] = {}
    empty = []
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            base, names = path, list_files(path)
            empty += [] if names else [path]
        elif path.is_file():
            base, names = path.parent, [path.name]
        else:
            base, names = _expand(str(path))
        for name in names:
            found.setdefault(without_suffix(name), {})[(base / name).resolve()] = base / name
    images: dict[str, Path] = {}
    for id, files in found.items():
        for longer, path in _told_apart(id, files).items():
            if longer in images:
                raise ConfigError(f"{path}: would be written over {images[longer]}: both are {longer!r}; rename one")
            images[longer] = path
    return [*images.items(), *((str(path), path) for path in empty)]


def _expand(pattern: str) -> tuple[Path, list[str]]:
    """The folder that a glob starts in, and the images that it or the folders it names hold, relative to that."""
    parts = Path(pattern).parts
    fixed = 0  # folders that are there, also where their names have brackets in them
    while fixed < len(parts) - 1 and (Path(*parts[: fixed + 1]).is_dir() or not glob.has_magic(parts[fixed])):
        fixed += 1
    base = Path(*parts[:fixed])
    paths: list[Path] = []
    for match in map(Path, sorted(glob.glob(str(Path(glob.escape(str(base)), *parts[fixed:])), recursive=True))):
        paths += [match / name for name in list_files(match)] if match.is_dir() else [match]
    names = [path.relative_to(base).as_posix() for path in paths if suffix_of(path.name) in RASTERS]
    if not names and not glob.has_magic(pattern):
        raise ConfigError(f"{pattern}: no such file or folder; expected images, folders or patterns")
    if not names:
        raise ConfigError(f"{pattern}: no image ({_KINDS}) fits this pattern")
    return base, names


def _told_apart(id: str, files: dict[Path, Path]) -> dict[str, Path]:
    if len(files) == 1:
        return dict.fromkeys([id], *files.values())
    common = os.path.commonpath([real.parent for real in files])
    longer = {real.relative_to(common).as_posix(): path for real, path in files.items()}
    short = {without_suffix(name): path for name, path in longer.items()}
    return short if len(short) == len(longer) else longer


def _empty(folder: Path) -> str:
    return f"{folder}: no images here; expected files {_KINDS}"


def predict(
    model: MultiTaskModel,
    sources: Sequence[str | Path],
    out: Path,
    size: Sequence[int] | None = None,
    notes: Counter[str] | None = None,
    bands: int | Sequence[int] | None = None,
) -> Iterator[tuple[str, str | None]]:
    """Writes `out/<task>/...` and `out/pictures/<id>.png` at each image's own size.

    Args:
        size: height and width that the network works at; None for the image's own, or less for a huge one.
        notes: counts what was done to images beyond reading them, such as "grey repeated to 3 channels".
        bands: which of a file's bands the network sees, as `rasters.read_image` takes them; by default the model's.

    Yields:
        The id of each image and None, or what was wrong with it.

    Raises:
        ConfigError: no such source, or an output folder that cannot be made; before anything is predicted.
        DataError: a prediction that cannot be written.
    """
    images = find_images(sources)
    notes = Counter() if notes is None else notes
    pictures = out / ("pictures" if "pictures" not in model.tasks else "composed")
    try:
        pictures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be made ({error.strerror}); choose another output folder") from None
    model.eval()
    for id, path in images:
        try:
            if path.is_dir():
                raise DataError(_empty(path))
            image, note = rasters.read_image(path, bands=model.bands if bands is None else bands)
        except DataError as error:
            yield id, str(error)
            continue
        height, width = image.shape[-2:]
        shrink = (height * width / _NETWORK_PIXELS) ** 0.5 if size is None else 0
        used = [int(height / shrink), int(width / shrink)] if shrink > 1 else size
        notes.update([] if note is None else note.split("; "))
        notes.update([f"more than {_NETWORK_PIXELS} pixels, shrunk for the network"] if shrink > 1 else [])
        composed = compose(_panels(model, id, image, Resize(used), out))
        rasters.write_image(composed, pictures / f"{id}.png")
        yield id, None


@dataclass(frozen=True)
class Predicted:
    """Where predictions are (None: of nothing), what was converted, and which sources could not be read and why."""

    folder: Path | None
    notes: list[str]
    problems: list[str]


def predict_run(
    run: str | Path, sources: Sequence[str | Path], out: str | Path | None = None, device: str | None = None
) -> Predicted:
    """Predicts with a run's best network, at the size it was trained at, into a new folder.

    Args:
        run: a run folder.
        sources: images, folders and globs.
        out: `run/predictions` by default; a number is added where it holds something.
        device: `cpu`, `cuda` or `cuda:N`; by default cuda where there is one.

    Raises:
        SegweaveError: no run, no such source, or a folder that cannot be made; before anything is predicted.
    """
    images = find_images(sources)
    if all(path.is_dir() for _, path in images):
        return Predicted(None, [], [_empty(path) for _, path in images])
    model, config = load_run(run)
    model.to(choose_device(device))
    folder = new_folder(Path(out) if out else Path(run) / "predictions")
    notes: Counter[str] = Counter()
    size, bands = config.data.get("size"), config.data.get("bands")
    problems = [why for _, why in predict(model, sources, folder, size, notes, bands) if why]
    return Predicted(folder, [f"{note} ({count} images)" for note, count in notes.items()], problems)


@torch.inference_mode()
def _panels(model: MultiTaskModel, id: str, image: Tensor, resize: Resize, out: Path) -> list[Panel]:
    """Writes every task's prediction of an image, and returns the image and the predictions as panels."""
    height, width = image.shape[-2:]
    resized = resize(image)[None].to(model.mean.device)
    outputs = model(resized)
    small = _shown_size(height, width)
    picture = shown(image, small)
    panels, texts = [], []
    for name, task in model.tasks.items():
        prediction = _decode(task, outputs.pop(name), (resized.shape[-2], resized.shape[-1]), height, width)
        try:
            task.write(out / name, id, prediction)
        except OSError as error:
            raise DataError(f"{out / name}: cannot be written ({error.strerror}); choose another output") from None
        legend = task.legend(prediction)
        if legend.text:
            texts.append(f"{name}: {legend.text}")
            continue
        if task.dense:
            drawn = task.draw(picture, thinned(prediction, height, width, small))
        else:
            drawn = task.draw(shown(image, (height, width)), prediction)
        panels.append(Panel(name, drawn, legend.entries, legend.bar, legend.ramp))
    return [Panel(id, picture, text="\n".join(texts)), *panels]


def _decode(task: Task, output: Tensor, used: tuple[int, int], height: int, width: int) -> Prediction:
    """The prediction for one image at its own size; strip by strip where the enlarged output would be too large."""
    values = output.shape[1] * height * width
    same = output.shape[-2:] == (height, width)
    if values <= _VALUES or output.ndim != 4 or not task.dense or type(task).resize is not Task.resize:
        resized = task.resize(output, used, (height, width))
        return {key: value[0].cpu() for key, value in task.decode(resized).items()}
    rows = max(1, _VALUES // (output.shape[1] * width))
    parts: dict[str, list[Tensor]] = {}
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        strip = output[..., top:bottom, :] if same else _enlarged(output, top, bottom, height, width)
        for key, value in task.decode(strip).items():
            parts.setdefault(key, []).append(value[0].cpu())
    return {key: torch.cat(values, -2) for key, values in parts.items()}


def _enlarged(output: Tensor, top: int, bottom: int, height: int, width: int) -> Tensor:
    """Rows `top` to `bottom` of `interpolate(output, (height, width), mode="bilinear", align_corners=False)`."""
    available = output.shape[-2]
    rows = torch.arange(top, bottom, device=output.device, dtype=torch.float32)
    position = ((rows + 0.5) * (available / height) - 0.5).clamp(min=0)
    above = position.floor().long().clamp(max=available - 1)
    below = (above + 1).clamp(max=available - 1)
    first, last = int(above[0]), int(below[-1])
    block = output[..., first : last + 1, :].float()
    block = nn.functional.interpolate(block, (last + 1 - first, width), mode="bilinear", align_corners=False)
    share = (position - above)[:, None]
    return torch.lerp(block[..., above - first, :], block[..., below - first, :], share)


def _shown_size(height: int, width: int) -> tuple[int, int]:
    factor = min(1.0, _SHOWN / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))
