"""Composed pictures: every panel is there, nothing overlaps or is cut, whatever the proportions and names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from segweave.report import picture
from segweave.report.picture import Panel, compose

RAMP = ((255, 255, 200), (120, 0, 120), (0, 0, 0))
RED = (250, 10, 20)


def flat(height: int, width: int, colour: tuple[int, int, int] = RED) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, height, width).contiguous()


def areas(sheet: torch.Tensor, colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Pixels of a colour, and height and width of the box around them."""
    mask = (sheet == torch.tensor(colour, dtype=torch.uint8)[:, None, None]).all(0)
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return int(mask.sum()), int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1


@pytest.mark.parametrize(
    ("height", "width"), [(360, 480), (200, 1200), (1200, 200), (16, 16), (3000, 4000), (20, 3000), (3000, 20), (1, 1)]
)
def test_any_proportions_give_a_sheet_that_can_be_read(height: int, width: int) -> None:
    panels = [
        Panel("image", flat(height, width)),
        Panel("a", flat(height, width, (0, 200, 0)), bar=(1, 9, "m"), ramp=RAMP),
    ]
    sheet = compose(panels)
    assert sheet.dtype == torch.uint8
    assert max(sheet.shape[-2:]) <= 1600
    assert sheet.shape[-1] >= 280
    for colour in (RED, (0, 200, 0)):
        pixels, tall, wide = areas(sheet, colour)
        assert pixels == tall * wide, "the picture is whole: no text lies on it"
        if 1 / 6 <= height / width <= 6:
            assert wide / tall == pytest.approx(width / height, rel=0.05)
            assert pixels > 40_000


def test_small_pictures_are_enlarged_without_blur() -> None:
    board = torch.zeros(3, 8, 8, dtype=torch.uint8)
    board[:, ::2, ::2] = 255
    sheet = compose([Panel("", board)])
    inside = sheet[:, 40:300, 30:300]
    assert set(inside.unique().tolist()) == {0, 255}


def test_every_entry_is_drawn_and_the_rest_is_counted() -> None:
    colours = [(i, 255 - i, (i * 7) % 256) for i in range(100)]
    names = [
        f"class {i}" if i % 3 else f"a name that is longer than any panel is wide, number {i} " * 3 for i in range(100)
    ]
    entries = list(zip(names, colours, strict=True))
    sheet = compose([Panel("image", flat(300, 400)), Panel("forty", flat(300, 400), entries=entries[:40])])
    assert all(areas(sheet, colour)[0] > 50 for colour in colours[:40])
    more = compose([Panel("hundred", flat(300, 400), entries=entries)])
    assert all(areas(more, colour)[0] > 50 for colour in colours[:64])
    assert picture._ENTRIES == 64


def test_entries_stay_inside_and_apart() -> None:
    lengths = [30, 500, 100, 100, 400, 10]
    places, lines = picture._flow(lengths, 420)
    assert lines == max(line for _, line in places) + 1
    for (left, line), length, (following, next_line) in zip(places, lengths, places[1:], strict=False):
        assert left == 0 or left + length <= 420
        assert next_line > line or following >= left + length
    assert picture._flow([], 420) == ([], 0)


@pytest.mark.parametrize("keep_end", [True, False])
@pytest.mark.parametrize(
    "text", ["short", "x" * 300, "Straße – пешеход " * 20, "日本語の道 " * 30, "", "a\nb\tc\0", "🚗 car " * 40]
)
def test_a_line_is_cut_to_its_width(text: str, keep_end: bool) -> None:
    image = Image.new("RGB", (400, 20), "white")
    from PIL import ImageDraw

    picture._write(ImageDraw.Draw(image), (10, 0), text, 200, keep_end)
    ink = np.argwhere(np.asarray(image).min(-1) < 200)
    assert len(ink) == 0 or (ink[:, 1].min() >= 9 and ink[:, 1].max() <= 212)
    assert bool(len(ink)) == bool(text.strip())


def test_lines_break_behind_commas_or_words() -> None:
    text = "tags: " + ", ".join(f"tag {i} 0.5{i}" for i in range(20)) + "\nscene: city"
    lines = picture._wrap(text, 300)
    assert lines[-1] == "scene: city"
    assert all(picture._length(line) <= 300 for line in lines)
    assert all(line.endswith(",") for line in lines[:-2])
    assert " ".join(line.strip() for line in lines) == text.replace("\n", " ")
    words = picture._wrap("word " * 40, 200)
    assert all(picture._length(line) <= 200 for line in words)
    assert picture._wrap("", 200) == []


def test_without_a_font_for_a_letter_plain_ones_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "_FONTS", ("no-such-font.ttf",))
    picture._fonts.cache_clear()
    try:
        assert picture._readable("Übergröße é")[1] in ("Ubergro?e e", "Übergröße é")
        compose([Panel("日本", flat(30, 40), entries=[("é", RED)], text="ß")])
    finally:
        picture._fonts.cache_clear()


@pytest.mark.parametrize(("low", "high"), [(0.1, 80.0), (0.0, 1.0), (1234.5, 123456.0), (3.0, 3.03)])
def test_the_bar_spans_its_width_with_both_ends(low: float, high: float) -> None:
    image = np.asarray(picture._bar((low, high, "m"), RAMP, 260))
    assert image.shape[1] == 260
    strip = image[picture._BOX // 2, 1:-1].astype(int)
    assert tuple(strip[0]) > tuple(strip[-1])
    assert (np.diff(strip.sum(-1)) <= 0).all(), "from light to dark without a step back"
    dark = np.argwhere(image[picture._BOX + 4 :].min(-1) < 120)[:, 1]
    assert dark.min() < 12
    assert dark.max() > 245
