"""The page in headless Chromium: what is clicked, typed, printed and fetched."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sample_run import lines, sample_run

from segweave.report.history import read_history
from segweave.report.style import DARK, LIGHT
from segweave.report.train_page import training_page

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.keys import Keys  # noqa: E402

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no Chromium with its driver on this machine")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    page = tmp_path_factory.mktemp("page") / "report ü.html"
    page.write_text(training_page(sample_run(examples=1)), encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    switches = ["headless=new", "disable-gpu", "disable-background-networking", "hide-scrollbars"]
    # the sandbox needs rights that a container's root has not
    switches += ["no-sandbox", "disable-dev-shm-usage"] if os.geteuid() == 0 else []
    for switch in switches:
        options.add_argument(f"--{switch}")
    service = webdriver.ChromeService(DRIVER)
    driver = webdriver.Chrome(options, service)
    driver.page = page.as_uri()
    yield driver
    driver.quit()


@pytest.fixture(autouse=True)
def fresh(browser: Any) -> None:
    show(browser)


def show(browser: Any, width: int = 1280, height: int = 900, scheme: str = "light", media: str = "screen") -> None:
    """Loads the page anew on a screen of a size, as a reader's system asks for it."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    # without motion, so that a place that is scrolled to is there at once
    wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in wishes.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    browser.get(browser.page)


def seen(browser: Any, task: int = 0) -> set[str]:
    """The layers that the first example shows of a task, and the image."""
    script = """
        return [...document.querySelector(".example").querySelectorAll(".layer")]
            .filter((e) => e.getClientRects().length && (e.dataset.task ?? arguments[0]) == arguments[0])
            .map((e) => e.dataset.layer)"""
    return set(browser.execute_script(script, str(task)))


def choose(browser: Any, id: str) -> None:
    browser.find_element("css selector", f"label[for={id}]").click()


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def colour(browser: Any, of: str = "body") -> str:
    script = "return getComputedStyle(document.querySelector(arguments[0])).backgroundColor"
    numbers = browser.execute_script(script, of).removeprefix("rgb(").removesuffix(")")
    return "#" + "".join(f"{int(part):02x}" for part in numbers.split(","))


def test_nothing_is_fetched_and_nothing_goes_wrong(browser: Any) -> None:
    choose(browser, "layer-truth")
    choose(browser, "task-1")
    browser.find_element("id", "theme").click()
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert browser.page in asked
    assert {address.partition(":")[0] for address in asked} <= {"file", "data"}
    assert browser.get_log("browser") == []
    broken = "return [...document.images].filter((image) => !image.complete || !image.naturalWidth).length"
    assert browser.execute_script(broken) == 0


def test_a_click_switches_the_layer_and_the_task(browser: Any) -> None:
    assert seen(browser) == {"image", "truth", "prediction", "error"}
    assert seen(browser, 1) == {"image"}
    for layer in ("truth", "prediction", "error", "image"):
        choose(browser, f"layer-{layer}")
        assert seen(browser) == {layer}
    choose(browser, "layer-error")
    choose(browser, "task-1")
    assert seen(browser, 1) == {"error"}
    assert seen(browser, 0) == set()


def test_a_click_on_a_picture_shows_the_next_layer_in_its_place(browser: Any) -> None:
    def click(layer: str) -> None:
        picture = browser.find_element("css selector", f'.layer[data-layer={layer}]:not([data-task="1"]) img')
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", picture)
        picture.click()

    click("truth")
    assert seen(browser) == {"truth"}
    for layer, following in (("truth", "prediction"), ("prediction", "error"), ("error", "image"), ("image", "truth")):
        click(layer)
        assert seen(browser) == {following}


def test_the_keyboard_reaches_and_switches_everything(browser: Any) -> None:
    browser.find_element("tag name", "body").send_keys(Keys.TAB)
    first = browser.switch_to.active_element
    assert first.get_attribute("class") == "skip"
    assert first.rect["x"] >= 0
    first.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == "content"
    radio = browser.find_element("id", "layer-all")
    radio.send_keys(Keys.ARROW_RIGHT)
    radio = browser.switch_to.active_element
    assert radio.get_attribute("id") == "layer-image"
    assert seen(browser) == {"image"}
    radio.send_keys(Keys.ARROW_RIGHT)
    assert seen(browser) == {"truth"}
    outline = "return getComputedStyle(document.querySelector('label[for=layer-truth]')).outlineStyle"
    assert browser.execute_script(outline) == "solid"


def test_light_and_dark(browser: Any) -> None:
    assert colour(browser) == LIGHT["page"]
    button = browser.find_element("id", "theme")
    assert button.text == "Dark theme"
    button.click()
    assert (colour(browser), button.text) == (DARK["page"], "Light theme")
    button.click()
    assert colour(browser) == LIGHT["page"]
    show(browser, scheme="dark")
    assert (colour(browser), colour(browser, "section")) == (DARK["page"], DARK["panel"])
    browser.find_element("id", "theme").click()
    assert colour(browser) == LIGHT["page"]


@pytest.mark.parametrize("width", [320, 390, 1280, 2560])
def test_no_page_is_wider_than_its_screen(browser: Any, width: int) -> None:
    show(browser, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    # and what a finger has to hit is large enough for one
    sizes = (
        "return [...document.querySelectorAll('.switch label, button')].map((e) => e.getBoundingClientRect().height)"
    )
    assert min(browser.execute_script(sizes)) >= 24


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_heat_maps_of_many_tasks_scroll_in_their_own_box_and_are_readable(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    names = [f"task number {n}" for n in range(16)]
    run = sample_run(examples=1)
    tasks = [replace(run.tasks[0], name=name, values={"score": 0.5, "wrong": 0.0}, classes=()) for name in names]
    place = tmp_path / "many.html"
    place.write_text(training_page(replace(run, tasks=tasks, history=read_history(lines(names, 4)))), encoding="utf-8")
    monkeypatch.setattr(browser, "page", place.as_uri())
    show(browser, 390, scheme=scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    boxes = browser.find_elements("css selector", ".agreement")
    assert len(boxes) == 2
    theme = DARK if scheme == "dark" else LIGHT
    ink, panel = (luminance(theme[name]) for name in ("ink", "panel"))
    for box in boxes:
        assert int(box.get_property("scrollWidth")) > int(box.get_property("clientWidth"))
        heading = box.find_element("css selector", "tbody th")
        before = heading.rect["x"]
        browser.execute_script("arguments[0].scrollLeft = 200", box)
        assert heading.rect["x"] == pytest.approx(before, abs=1), "names of rows stay in sight"
    script = """
        const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
        return [...document.querySelectorAll(".agreement td[style]")].map((cell) => {
            canvas.fillStyle = getComputedStyle(cell).backgroundColor;
            canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
        })"""
    shades = {tuple(shade) for shade in browser.execute_script(script)}
    assert len(shades) == 2  # -0.1 everywhere in one map, half of the steps in the other
    for shade in shades:
        bright, dark = sorted((ink, luminance("#" + "".join(f"{part:02x}" for part in shade))), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5
        assert luminance("#" + "".join(f"{part:02x}" for part in shade)) != pytest.approx(panel, abs=0.01)


def test_paper_shows_every_layer_of_every_task_in_bright_colours(browser: Any) -> None:
    choose(browser, "layer-truth")
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    for task in (0, 1):
        assert seen(browser, task) == {"image", "truth", "prediction", "error"}
    ink = "return getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()"
    assert browser.execute_script(ink) == LIGHT["ink"]
    # else the paper itself is dark
    assert browser.execute_script("return getComputedStyle(document.documentElement).colorScheme") == "light"
    hidden = "return ['nav', '#theme', '.switches'].map((s) => document.querySelector(s).getClientRects().length)"
    assert browser.execute_script(hidden) == [0, 0, 0]
    printed = base64.b64decode(browser.print_page())
    assert printed.startswith(b"%PDF-")
    assert 2 <= printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") + printed.count(b"/Type /Page/") <= 30


def test_it_is_shown_without_scripts(browser: Any) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(browser.page)
        choose(browser, "layer-truth")
        shown = browser.find_elements("css selector", ".example .layer")
        assert {one.get_attribute("data-layer") for one in shown if one.is_displayed()} == {"truth"}
        assert not browser.find_element("id", "theme").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_screenshot_is_not_empty(browser: Any) -> None:
    picture = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    assert len(picture.resize((80, 60)).getcolors(4800) or ()) > 50
