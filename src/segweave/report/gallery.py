"""Example images with what each task should have said, what it said and where that is wrong, as layers to switch."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
    """The names of all colours in a task's pictures."""
    shown = [one for example in gallery.examples for one in example.shown if one.task == task]
    pictures = [picture for one in shown for picture in (one.truth, one.prediction, one.error) if picture]
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
    layers = [_layer(image(example.image, alt, most), "Image", Html(), "image")]
    for shown in example.shown:
        for layer, picture in (("truth", shown.truth), ("prediction", shown.prediction), ("error", shown.error)):
            content, bar = tag("div", f"No label of {shown.task} for this image", class_="none"), Html()
            if picture is not None:
                alt = f"{example.id}: {_WORDS[layer]} {shown.task}{in_words(picture.entries, picture.bar)}"
                content = image(picture.pixels, alt, most)
                bar = ramp(*picture.bar, picture.colours) if picture.bar else bar
            name = f"{_LAYERS[layer]}, {shown.task}"
            layers.append(_layer(content, name, bar, layer, tasks.index(shown.task)))
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


def _layer(content: Html, caption: str, below: Html, layer: str, task: int | None = None) -> Html:
    body = tag("figcaption", join([caption, below]))
    return tag("figure", join([content, body]), class_="layer", data_layer=layer, data_task=task)
