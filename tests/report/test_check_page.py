"""The page of the data doctor, from plain values: everything escaped, errors before warnings, pictures inside."""

from __future__ import annotations

import re

import torch
from page_reader import Page

from segweave.report.check_page import Drawn, Remark, Sheet, check_page
from segweave.report.picture import Panel

NASTY = "<script>alert('x')</script> & \"quoted\""
GREEN = (0, 128, 0)


def drawn(title: str, panels: int) -> Drawn:
    picture = torch.zeros(3, 20, 30, dtype=torch.uint8)
    legends = [{}, {"entries": [(NASTY, GREEN)]}, {"bar": (1.0, 4.0, "m"), "ramp": (GREEN, (0, 0, 0))}, {"text": NASTY}]
    return Drawn(title, [Panel(f"panel {i}", picture, **legends[i]) for i in range(panels)])


def test_everything_is_shown_and_escaped() -> None:
    sheet = Sheet(f"Counts {NASTY}", ("class", NASTY, "share"), [[NASTY, 12, "3.4 %"], ["b", None, None]])
    remarks = [Remark("warning", NASTY, [drawn(NASTY, 4)])]
    page = check_page(NASTY, f"ready {NASTY}", remarks, [sheet], {NASTY: [drawn("first", 3)]})
    reader = Page(page)
    assert page.count("<script>") == 1, "the page's own"
    assert NASTY not in page
    assert reader.words.count("alert('x')") >= 9
    assert len(reader.named("img")) == 7
    assert all(img["src"].startswith("data:image/") and img["alt"] for img in reader.named("img"))
    alts = [img["alt"] for img in reader.named("img")]
    assert f"first: panel 1 ({NASTY})" in alts
    assert "first: panel 2 (1 to 4 m)" in alts
    assert "4 m" in reader.words
    assert "3.4 %" in reader.words


def test_errors_stand_before_warnings_and_good_news_is_green() -> None:
    remarks = [Remark("advice", "third"), Remark("error", "first"), Remark("warning", "second")]
    bad = check_page("a", "1 error", remarks, [], {})
    text = Page(bad).words
    assert text.index("first") < text.index("second") < text.index("third")
    assert 'class="bad">1 error' in bad
    assert 'class="good">ready' in check_page("a", "ready to train", remarks[::2], [], {})


def test_links_lead_to_the_sections() -> None:
    page = check_page("a", "ready", [], [], {"train": [], "val": [drawn("x", 1)]})
    wanted = re.findall(r'href="#([\w]+)"', page)
    assert {"found", "counts", "samples0", "samples1"} <= set(wanted)
    assert all(f'id="{name}"' in page for name in wanted)


def test_columns_of_numbers_and_shares_are_figures() -> None:
    rows = [["a", 1, "50.0 %", "60 x 40", None], ["b", None, None, None, None]]
    assert Sheet("sizes", ("name", "count", "share", "size", "nothing"), rows).figures == [1, 2, 4]
