"""Example images with what each task should have said, what it said and where that is wrong, as layers to switch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jaxtyping import UInt8
from torch import Tensor

from segweave.report.html import Html, image, in_words, join, key, notes, number, paragraph, ramp, tag

GROUPS = {"good": "Good", "typical": "Typical", "worst": "Worst"}
_LAYERS = {"image": "Image", "truth": "Truth", "prediction": "Prediction", "error": "Error"}


@dataclass(frozen=True)
class Picture:
    """Pixels and what they mean: coloured names, and a bar of colours from a low to a high value of a unit."""

    pixels: UInt8[Tensor, "3 H W"]
    entries: Sequence[tuple[str, tuple[int, int, int]]] = ()
    bar: tuple[float, float, str] | None = None
    colours: Sequence[tuple[int, int, int]] = ()


@dataclass(frozen=True)
class Shown:
    """A task that is seen in pictures; no truth and no error where the image has no label for it."""

    task: str
    prediction: Picture
    truth: Picture | None = None
    error: Picture | None = None


@dataclass(frozen=True)
class Said:
    """A task that is read in words."""

    task: str
    prediction: str
    truth: str | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Example:
    """One image: its name, which of `GROUPS` it stands in, the score of each task, and what the tasks say.

    A score is the task, the metric, the value, and how the labels came about where nobody annotated them, else nothing.
    """

    id: str
    group: str
    image: UInt8[Tensor, "3 H W"]
    scores: Sequence[tuple[str, str, float, str]]
    shown: Sequence[Shown]
    said: Sequence[Said]


@dataclass(frozen=True)
class Gallery:
    """The examples, how they were chosen, and what a reader should know of what is missing."""

    examples: Sequence[Example]
    how: str
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class PictureRow:
    """An image, and by task the pictures of it with the names of their columns, such as `truth` and two networks'."""

    id: str
    image: UInt8[Tensor, "3 H W"]
    shown: Sequence[tuple[str, Sequence[tuple[str, Picture]]]]


def gallery_html(gallery: Gallery, most: int) -> Html:
    """The examples in their groups, below switches for the task and the layer.

    Args:
        most: characters that all pictures together may take.
    """
    tasks = list(dict.fromkeys(shown.task for example in gallery.examples for shown in example.shown))
    count = sum(1 + 3 * len(example.shown) for example in gallery.examples)
    each = min(90_000, most // max(1, count))
    parts = [paragraph(gallery.how, soft=True), notes(gallery.notes)]
    if tasks:
        parts += [_switches(tasks), _rules(tasks), *(_swatches(gallery, task, n) for n, task in enumerate(tasks))]
    for group, title in GROUPS.items():
        members = [_example(example, tasks, each) for example in gallery.examples if example.group == group]
        if members:
            parts += [tag("h3", title), tag("div", join(members), class_="examples")]
    return tag("div", join(parts), class_="gallery")


def _switches(tasks: Sequence[str]) -> Html:
    """Radio buttons, which work by click, by arrow keys and without scripts."""
    layers = {"all": "Side by side", **_LAYERS}
    rows = [_switch("Layer", "layer", [(f"layer-{value}", value, name) for value, name in layers.items()])]
    if len(tasks) > 1:
        rows.insert(0, _switch("Task", "task", [(f"task-{n}", str(n), name) for n, name in enumerate(tasks)]))
    return tag("div", join(rows), class_="switches")


def _switch(title: str, name: str, choices: Sequence[tuple[str, str, str]]) -> Html:
    inputs = (
        join(
            [
                tag("input", type="radio", name=name, id=id, value=value, checked=place == 0, autocomplete="off"),
                tag("label", text, for_=id),
            ]
        )
        for place, (id, value, text) in enumerate(choices)
    )
    return tag("fieldset", join([tag("legend", title), *inputs]), class_="switch")


def _rules(tasks: Sequence[str]) -> Html:
    """What the switches hide; only on screens, since paper shows everything."""
    rules = []
    for number_, _ in enumerate(tasks):
        rules.append(f'.gallery:has(#task-{number_}:checked) [data-task]:not([data-task="{number_}"])')
    for layer in _LAYERS:
        rules.append(f".gallery:has(#layer-{layer}:checked) .layer:not([data-layer={layer}])")
    single = ".gallery:has(.switch [name=layer]:checked:not(#layer-all))"
    return Html(
        f'<style media="screen">{",".join(rules)}{{display:none}}{single} .layers{{grid-template-columns:1fr}}'
        f"{single} .examples{{grid-template-columns:repeat(auto-fill,minmax(min(22rem,100%),1fr))}}"
        f".layer img{{cursor:pointer}}</style>"
    )


def _swatches(gallery: Gallery, task: str, place: int) -> Html:
    shown = [one for example in gallery.examples for one in example.shown if one.task == task]
    pictures = [picture for one in shown for picture in (one.truth, one.prediction, one.error) if picture]
    return swatches(task, pictures, place)


def swatches(task: str, pictures: Iterable[Picture], place: int | None = None) -> Html:
    """The names of all colours in a task's pictures.

    Args:
        place: of the task among those of a switch.
    """
    named: dict[tuple[int, int, int], dict[str, None]] = {}
    for picture in pictures:
        for name, colour in picture.entries:
            named.setdefault(colour, {})[name] = None
    # a count belongs to one picture
    entries = {
        (re.sub(r" \(\d+\)$", "", name) if len(names) > 1 else name, colour): None
        for colour, names in named.items()
        for name in names
    }
    if not entries:
        return Html()
    keys = key(entries)
    return tag(
        "div", join([tag("span", f"Colours of {task}: ", class_="soft"), keys]), class_="swatches", data_task=place
    )


def _example(example: Example, tasks: Sequence[str], most: int) -> Html:
    scores = " · ".join(
        ", ".join([f"{task} {metric} {number(value, 3)}", *([origin] if origin else [])])
        for task, metric, value, origin in example.scores
    )
    caption = join([tag("b", example.id), tag("span", scores, class_="soft")])
    alt = f"Validation image {example.id}"
    layers = [layer(Picture(example.image), "Image", alt, most, "image")]
    for shown in example.shown:
        missing = f"No label of {shown.task} for this image"
        for kind, picture in (("truth", shown.truth), ("prediction", shown.prediction), ("error", shown.error)):
            name, alt = f"{_LAYERS[kind]}, {shown.task}", f"{example.id}: {_WORDS[kind]} {shown.task}"
            layers.append(layer(picture, name, alt, most, kind, tasks.index(shown.task), missing))
    said = [join([tag("b", one.task), f": {one.prediction}", _verdict(one)]) for one in example.said]
    words = tag("ul", join(tag("li", line) for line in said), class_="said") if said else ""
    body = [tag("figcaption", caption), tag("div", join(layers), class_="layers"), words]
    return tag("figure", join(body), class_="example")


_WORDS = {"truth": "true", "prediction": "predicted", "error": "errors of"}


def _verdict(said: Said) -> Html:
    if said.truth is None:
        return tag("span", " (no label for this image)", class_="soft")
    if said.verdict == "right":
        return join([" · ", tag("span", "right", class_="good")])
    mark = "soft" if said.verdict == "not known" else "bad"
    return join([f" · truth: {said.truth} · ", tag("span", said.verdict, class_=mark)])


def layer(
    picture: Picture | None,
    caption: str,
    alt: str,
    most: int,
    kind: str | None = None,
    task: int | None = None,
    missing: str = "",
) -> Html:
    """A picture with its caption and its bar of colours.

    Args:
        alt: what it shows; its legend is added.
        most: characters that it may take.
        kind, task: what switches find it by.
        missing: what stands in its place where there is none.
    """
    if picture is None:
        content, below = tag("div", missing, class_="none"), Html()
    else:
        content = image(picture.pixels, f"{alt}{in_words(picture.entries, picture.bar)}", most)
        below = ramp(*picture.bar, picture.colours) if picture.bar else Html()
    body = join([content, tag("figcaption", join([caption, below]))])
    return tag("figure", body, class_="layer", data_layer=kind, data_task=task)


def grid_html(tasks: Sequence[str], rows: Sequence[PictureRow], most: int) -> Html:
    """Each image, and beside it a line of pictures for each task below the names of their columns.

    Args:
        most: characters that all pictures together may take.
    """
    if not rows:
        return paragraph("There are no pictures.", soft=True)
    columns = list(dict.fromkeys(column for row in rows for _, shown in row.shown for column, _ in shown))
    each = min(90_000, most // (len(rows) + sum(len(shown) for row in rows for _, shown in row.shown)))
    colours = []
    for task in tasks:
        drawn = [picture for row in rows for name, shown in row.shown if name == task for _, picture in shown]
        colours.append(swatches(task, drawn))
    return join([*colours, tag("div", join(_grid(row, columns, each) for row in rows), class_="examples")])


def _grid(row: PictureRow, columns: Sequence[str], most: int) -> Html:
    # what the heads say, `alt` says to readers aloud
    heads = join(tag("span", column, class_="head", aria_hidden="true") for column in columns)
    lines = [heads]
    for task, shown in row.shown:
        known = dict(shown)
        lines.append(
            join(
                layer(known.get(column), task, f"{row.id}: {task}, {column}", most, missing=f"No {column} of {task}")
                for column in columns
            )
        )
    head = tag("span", "image", class_="head", aria_hidden="true")
    whole = tag("div", join([head, layer(Picture(row.image), "", f"Image {row.id}", most)]))
    beside = tag("div", join(tag("div", line, class_="across") for line in lines))
    body = [tag("figcaption", tag("b", row.id)), tag("div", join([whole, beside]), class_="against")]
    return tag("figure", join(body), class_="example")
