from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from page_reader import Page
from sample_run import NASTY, cost, lines, sample_run

from segweave.report import train_page
from segweave.report.gallery import Gallery
from segweave.report.history import read_history
from segweave.report.train_page import LARGEST, training_page


@pytest.fixture(scope="module")
def text() -> str:
    return training_page(sample_run())


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_every_part_is_there(page: Page) -> None:
    targets = [a["href"][1:] for a in page.named("nav") + page.named("a")[1:] if "href" in a]
    assert targets == ["results", "examples", "classes", "curves", "weights", "gradients", "cost", "again"]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert set(targets) <= set(ids)
    assert len(set(ids)) == len(ids)
    for words in ("0.7312", "score ↑ higher is better", "no validation image has a label", "7 of 8 validation images"):
        assert words in page.words
    for chart in (
        "total loss",
        "learning rate",
        "gradient norm",
        "task 0: all terms",
        "task 1: second",
        "task 0/score ↑",
    ):
        assert chart in page.words, chart
    for words in ("shared: weight_decay", "loss times weight", "Resumed.", "cannot be read", "Stopped"[:0], "seed"):
        assert words in page.words


def test_headings_come_in_order(page: Page) -> None:
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_what_a_reader_aloud_needs(page: Page) -> None:
    pictures = page.named("img")
    assert len(pictures) == 9 * 7 - 4
    assert all(picture["alt"] for picture in pictures)
    alts = [picture["alt"] for picture in pictures]
    assert any("true task 1" in alt and "0.5 to 8 m" in alt and NASTY in alt for alt in alts)
    assert all("scope" in th for th in page.named("th"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.named("svg"))
    labels = {label["for"] for label in page.named("label")}
    assert labels == {radio["id"] for radio in page.named("input")}
    assert all(radio["type"] == "radio" for radio in page.named("input"))
    assert page.named("a")[0] == {"class": "skip", "href": "#content"}


def test_names_are_text_and_nothing_is_fetched(text: str, page: Page) -> None:
    assert len(page.named("script")) == 1
    assert "<script>alert" not in text
    assert page.words.count(NASTY) > 10
    for _, attributes in page.elements:
        for key in ("src", "href", "srcset", "action"):
            assert re.match(r"(#|data:|$)", attributes.get(key, "")), attributes
    assert "url(" not in text
    assert "@import" not in text


def test_what_is_not_there_is_said() -> None:
    run = sample_run()
    bare = replace(
        run,
        history=read_history(line for line in lines(["task 0"], 5, 5) if "weight/task 0" not in line),
        cost=None,
        cost_missing="<out of memory>",
        gallery=Gallery([], "No validation image could be read."),
    )
    words = Page(training_page(bare)).words
    assert "Not measured: <out of memory>" in words
    assert "The log has no weights." in words
    assert "The task gradients were not compared." in words
    assert "There was one validation only" in words
    assert "This run has no regularisers." in words
    assert "No validation image could be read." in words
    assert "Without classes, or without a label of any: words" in words
    assert "No label of task 0 for this image" in Page(training_page(run)).words
    assert "(no label for this image)" in Page(training_page(run)).words


def test_one_task_has_nothing_to_share() -> None:
    words = Page(training_page(replace(sample_run(), cost=cost(["a"])))).words
    assert "With a single task there is nothing to share." in words


def test_the_balancing_method_goes_by_its_label(page: Page) -> None:
    assert "What the balancing method multiplied each task's loss by" in page.words
    words = Page(training_page(replace(sample_run(), method="famo (next-step loss)"))).words
    assert "What famo (next-step loss) multiplied each task's loss by" in words


def test_cost_in_words_and_numbers(page: Page) -> None:
    assert "One shared network answers both tasks in 12.3 ms an image; 2 separate ones take 24.6 ms." in page.words
    assert "Sharing needs 50 % of their time and 50 % of their parameters." in page.words
    for words in ("1.23 M", "9.88 G", "45.6 MB", "encoder", "decoder", "head task 1", "0.50"):
        assert words in page.words


def test_the_page_stays_small_whatever_the_run() -> None:
    """The noisiest pictures there are, many tasks, 255 classes each and long names."""
    run = sample_run(tasks=6, classes=255, size=(400, 600), examples=1)
    run = replace(run, history=read_history(lines([task.name for task in run.tasks], 300, 2)), config="x" * 10_000_000)
    text = training_page(run)
    assert len(text.encode()) < LARGEST
    assert len(Page(text).named("img")) == 3 * (1 + 3 * 6) - 2 * 6 + 6  # one is not labelled; a confusion matrix each
    assert "the rest is in config.yaml" in text


def test_pictures_shrink_until_the_page_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    run = sample_run()
    whole = len(training_page(run).encode())
    pictures = sum(len(picture["src"]) for picture in Page(training_page(run)).named("img"))
    monkeypatch.setattr(train_page, "LARGEST", whole - pictures // 3)
    assert len(training_page(run).encode()) < whole - pictures // 3
