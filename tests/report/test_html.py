from __future__ import annotations

import base64
import io
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from page_reader import Page
from PIL import Image
from sample_run import NASTY, noise

from segweave.report.html import (
    Html,
    bar,
    data_uri,
    document,
    escape,
    facts,
    image,
    join,
    key,
    number,
    quantity,
    ramp,
    section,
    table,
    tag,
)
from segweave.report.style import DARK, LIGHT, SCRIPT, SHEET


@given(st.text())
def test_any_text_comes_back_from_a_page(text: str) -> None:
    page = Page(f"<p>{escape(text)}</p>")
    assert [name for name, _ in page.elements] == ["p"]
    blanked = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", " ", text)
    assert page.words == blanked


@given(st.text())
def test_any_text_is_an_attribute(text: str) -> None:
    (_, attributes), *rest = Page(tag("p", title=text)).elements
    assert not rest
    assert attributes["title"].split() == re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", " ", text).split()


def test_markup_is_left_and_everything_else_is_not() -> None:
    assert join([Html("<b>"), "<b>", 3, None, 0.5]) == "<b>&lt;b&gt;3–0.5000"
    assert tag("td", class_="a", aria_label="b", hidden=True, id=None, checked=False) == (
        '<td class="a" aria-label="b" hidden></td>'
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.73121, "0.7312"), (0.0, "0"), (1234567, "1 234 567"), (12.3456, "12.35"), (123456.7, "123 457"),
     (0.00012345, "0.000123"), (float("nan"), "–"), (None, "–"), (float("inf"), "inf"), (-3.14159, "-3.142")],
)  # fmt: skip
def test_numbers(value: float | None, shown: str) -> None:
    assert number(value) == shown.replace(" ", "\u202f")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1_234_567, "1.23 M"), (999, "999"), (1000, "1.00 k"), (2.1e9, "2.10 G"), (123e9, "123 G"), (0, "0")],
)
def test_quantities(value: float, shown: str) -> None:
    assert quantity(value) == shown


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2, from its definition."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_contrast_measure_itself() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_text_and_lines_stand_out(theme: dict[str, str]) -> None:
    for behind in ("page", "panel", "raised"):
        for text in ("ink", "soft", "accent", "good", "bad"):
            assert contrast(theme[text], theme[behind]) >= 4.5, (text, behind)
    assert contrast(theme["on-accent"], theme["accent"]) >= 4.5
    # a cell's colour lies between these two
    assert min(contrast(theme["ink"], theme[behind]) for behind in ("heat", "conflict", "panel")) >= 4.5
    for line in ("edge", *(f"series{n}" for n in range(1, 9))):
        assert contrast(theme[line], theme["panel"]) >= 3, line


def test_every_colour_of_the_style_sheet_is_a_variable_that_both_themes_have() -> None:
    used = set(re.findall(r"var\(--([a-z0-9-]+)", SHEET))
    assert used - {"share", "p"} <= set(LIGHT)
    assert set(LIGHT) == set(DARK)
    rules = SHEET.partition("*{box-sizing")[2]
    assert not re.findall(r"#[0-9a-f]{3,8}\b", rules)
    for media in ("prefers-color-scheme:dark", "print", "max-width:44rem", "prefers-reduced-motion:reduce"):
        assert f"@media ({media})" in SHEET or f"@media {media}" in SHEET
    assert ":focus-visible" in SHEET


def test_a_document() -> None:
    text = document(NASTY, section("one", NASTY, "text"), NASTY, {"one": NASTY})
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert page.named("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.named("meta")
    policy = next(m["content"] for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")
    targets = {a["href"][1:] for a in page.named("a")}
    assert targets <= {attributes.get("id") for _, attributes in page.elements}
    assert len(page.named("script")) == 1
    assert page.words.count(NASTY) == 5  # window, heading, lead, link, section
    assert "http://" not in SCRIPT + SHEET
    assert "https://" not in SCRIPT + SHEET


def test_a_table_has_scopes_a_caption_and_numbers_to_the_right() -> None:
    page = Page(table(["name", "value", "words"], [["a", 0.5, "x"], [NASTY, None, Html("<b>y</b>")]], "a & b"))
    assert [th["scope"] for th in page.named("th")] == ["col", "col", "col", "row", "row"]
    assert [td.get("class") for td in page.named("td")] == ["number", None, "number", None]
    region = next(div for div in page.named("div") if div.get("role") == "region")
    assert region["aria-label"] == "a & b"
    assert region["tabindex"] == "0"
    assert len(page.named("caption")) == 1


def test_bars_keys_and_ramps_say_what_they_mean() -> None:
    assert "--share:25.0%" in bar(0.25, "a quarter")
    assert "--share:100.0%" in bar(7.0, "too much")
    assert "rgb(1,2,3)" in key([("<name>", (1, 2, 3))])
    assert "&lt;name&gt;" in key([("<name>", (1, 2, 3))])
    # the middle of colours on a logarithmic scale is the geometric mean
    assert Page(ramp(2.0, 32.0, "m", [(0, 0, 0), (9, 9, 9)])).words == "2832 m"
    assert Page(ramp(0.0, 50.0, "%", [(0, 0, 0), (9, 9, 9)])).words == "02550 %"
    assert Page(facts({"<a>": "b"})).words == "<a>b"


@pytest.mark.parametrize("size", [(40, 60), (1500, 2000), (3, 4000), (1, 1)])
@pytest.mark.parametrize("most", [2_500, 60_000])
def test_a_picture_keeps_to_its_bytes(size: tuple[int, int], most: int) -> None:
    uri, width, height = data_uri(noise(*size), most, 640)
    assert len(uri) <= most
    assert max(width, height) <= 640
    found = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert found.format == "WEBP"
    assert found.size == (width, height)
    assert uri.startswith("data:image/webp;base64,")


def test_a_picture_shows_what_it_was_given() -> None:
    picture = torch.zeros(3, 64, 96, dtype=torch.uint8)
    picture[0, :, :48] = 220
    (_, attributes), *_ = Page(image(picture, NASTY)).elements
    assert attributes["alt"] == NASTY
    pixels = Image.open(io.BytesIO(base64.b64decode(attributes["src"].partition(",")[2]))).convert("RGB")
    assert pixels.getpixel((10, 30))[0] > 200
    assert max(pixels.getpixel((90, 30))) < 25
