"""Images and folders to prediction files in the field's formats, and one composed picture an image."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from segweave import rasters
from segweave.data.augment import Resize, to_float
from segweave.errors import ConfigError, DataError
from segweave.model import MultiTaskModel
from segweave.report.picture import Panel, compose

_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".npy"}


def find_images(sources: Sequence[str | Path]) -> list[tuple[str, Path]]:
    """`(id, path)` of every image that files, folders and globs name; ids are paths below a folder, without suffix.

    Raises:
        ConfigError: a source that does not exist, a folder without images, or two images with one id.
    """
    found: dict[str, Path] = {}
    for source in sources:
        path = Path(source)
        if path.is_dir():
            files = [(p.relative_to(path), p) for p in sorted(path.rglob("*")) if p.suffix.lower() in _SUFFIXES]
            if not files:
                raise ConfigError(f"{path}: no images in this folder; expected {', '.join(sorted(_SUFFIXES))}")
        elif path.is_file():
            files = [(Path(path.name), path)]
        else:
            files = [(Path(Path(p).name), Path(p)) for p in sorted(glob.glob(str(source), recursive=True))]
            if not files:
                raise ConfigError(f"{source}: no such image, folder or pattern")
        for relative, file in files:
            id = relative.with_suffix("").as_posix()
            if id in found:
                raise ConfigError(f"{file}: would be written over {found[id]}: both are called {id!r}")
            found[id] = file
    return list(found.items())


@torch.inference_mode()
def predict(
    model: MultiTaskModel,
    sources: Sequence[str | Path],
    out: Path,
    size: Sequence[int] | None = None,
) -> Iterator[tuple[str, str | None]]:
    """Writes `out/<task>/...` and `out/pictures/<id>.png` at each image's own size.

    Args:
        size: height and width that the network works at; None for the image's own.

    Yields:
        The id of each image and None, or what was wrong with it.
    """
    model.eval()
    resize = Resize(size)
    for id, path in find_images(sources):
        try:
            image, _ = rasters.read_image(path)
        except DataError as error:
            yield id, str(error)
            continue
        height, width = image.shape[-2:]
        outputs = model(resize(image)[None].to(model.mean.device))
        shown = (to_float(image) * 255).round().clamp(0, 255).to(torch.uint8)
        panels = [Panel(id, shown)]
        for name, task in model.tasks.items():
            batch = task.decode(task.resize(outputs[name], height, width))
            prediction = {key: value[0].cpu() for key, value in batch.items()}
            task.write(out / name, id, prediction)
            legend = task.legend(prediction)
            drawn = task.draw(shown, prediction)
            if legend.text:
                panels[0] = Panel(id, shown, text="   ".join(filter(None, [panels[0].text, f"{name}: {legend.text}"])))
            else:
                panels.append(Panel(name, drawn, legend.entries, legend.bar, legend.ramp))
        rasters.write_image(compose(panels), out / "pictures" / f"{id}.png")
        yield id, None
