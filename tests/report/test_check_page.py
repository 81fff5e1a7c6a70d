"""The page of the data doctor, from plain values: everything escaped, errors before warnings, pictures inside."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import torch

from segweave.report.check_page import Drawn, Remark, Sheet, check_page
from segweave.report.picture import Panel

NASTY = "<script>alert('x')</script> & \"quoted\""
GREEN = (0, 128, 0)


def drawn(title: str, panels: int) -> Drawn:
    picture = torch.zeros(3, 20, 30, dtype=torch.uint8)
    legends = [{}, {"entries": [(NASTY, GREEN)]}, {"bar": (1.0, 4.0, "m"), "ramp": (GREEN, (0, 0, 0))}, {"text": NASTY}]
    return Drawn(title, [Panel(f"panel {i}", picture, **legends[i]) for i in range(panels)])


class Reader(HTMLParser):
    """Collects the tags and the text, and whether every tag that was opened is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("img", "meta", "link", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_everything_is_shown_and_escaped() -> None:
    sheet = Sheet(f"Counts {NASTY}", ("class", NASTY, "share"), [[NASTY, 12, "3.4 %"], ["b", None, None]])
    remarks = [Remark("warning", NASTY, [drawn(NASTY, 4)])]
    page = check_page(NASTY, f"ready {NASTY}", remarks, [sheet], {NASTY: [drawn("first", 3)]})
    reader = Reader(page)
    assert reader.open == []
    assert page.count("<script>") == 1, "the page's own"
    assert NASTY not in page
    assert reader.text.count("alert('x')") >= 9
    assert sum(tag == "img" for tag, _ in reader.seen) == 7
    assert all(str(a["src"]).startswith("data:image/") and a["alt"] for tag, a in reader.seen if tag == "img")
    assert "4 m" in reader.text
    assert "3.4 %" in reader.text


def test_errors_stand_before_warnings_and_good_news_is_green() -> None:
    remarks = [Remark("advice", "third"), Remark("error", "first"), Remark("warning", "second")]
    bad = check_page("a", "1 error", remarks, [], {})
    text = Reader(bad).text
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
