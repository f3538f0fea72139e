"""report.html as a browser shows it. Skipped, with the reason, where no browser is found."""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

import made_reports as made
import transfer_files
from loragraft import compare, extract, transfer
from loragraft.report.html import html_report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Browser = webdriver.Chrome

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
NAMES = ("extract", "transfer", "compare", "evaluate")
PHONE = 360
ROWS = "#table tbody tr"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        missing = "chromium" if program is None else "chromedriver"
        pytest.skip(f"no browser: {missing} is not installed (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of every command: three real ones, and the evaluation that was made up."""
    place = tmp_path_factory.mktemp("pages")
    base = transfer_files.llama(place / "base", seed=1, depth=4)
    tuned = transfer_files.moved(base, place / "tuned", change=0.1)
    extract(base, tuned, place / "extract", rank=6)
    transfer(
        place / "extract", base, tuned, place / "transfer", subspace_rank=8, method="lora-x",
        layers="0-2", cache=False,
    )  # fmt: skip
    compare(base, tuned, place / "compare", subspace_rank=8, cache=False)
    (place / "evaluate").mkdir()
    (place / "evaluate" / "report.html").write_text(
        html_report(made.evaluation()), encoding="utf-8"
    )
    return {name: place / name / "report.html" for name in NAMES}


def show(browser: Browser, page: Path, *, width: int = 1200, dark: bool = False) -> float:
    """Open a page; return the seconds until its charts stood there."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    scheme(browser, dark=dark)
    browser.get_log("browser")
    browser.get_log("performance")
    started = time.perf_counter()
    browser.get(page.as_uri())
    WebDriverWait(browser, 60, 0.02).until(lambda _: ask(browser, STATE) is not None)
    seconds = time.perf_counter() - started
    assert ask(browser, STATE) == "drawn"
    return seconds


STATE = "document.documentElement.dataset.charts ?? null"


def ask(browser: Browser, expression: str) -> Any:
    return browser.execute_script(f"return {expression}")


def scheme(browser: Browser, *, dark: bool) -> None:
    value = "dark" if dark else "light"
    features = [{"name": "prefers-color-scheme", "value": value}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})


def column(browser: Browser, place: int) -> list[str]:
    script = f"[...document.querySelectorAll('{ROWS}')].map((row) => row.cells[{place}].innerText)"
    return list(ask(browser, script))


def heading(browser: Browser, label: str) -> tuple[int, Any]:
    """The place of a column, and the button that sorts by it."""
    buttons = browser.find_elements(By.CSS_SELECTOR, "#table th button")
    place = [one.text.split("\u2009")[0] for one in buttons].index(label)
    return place, buttons[place]


def counts(browser: Browser) -> str:
    return browser.find_element(By.ID, "count").text


def brightness(colour: str) -> float:
    """Mean of an ``rgb()`` colour, 0 to 255."""
    numbers = colour.partition("(")[2].rstrip(")").split(",")[:3]
    return sum(map(float, numbers)) / 3.0


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_without_errors_and_asks_for_nothing(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    show(browser, pages[name])
    assert browser.get_log("browser") == []
    entries = [json.loads(one["message"])["message"] for one in browser.get_log("performance")]
    asked = [
        entry["params"]["request"]["url"]
        for entry in entries
        if entry["method"] == "Network.requestWillBeSent"
    ]
    assert pages[name].as_uri() in asked
    # Heat maps are pictures within the page.
    assert {url.partition(":")[0] for url in asked if url != pages[name].as_uri()} <= {"data"}


def test_heat_maps_have_a_cell_for_every_module(browser: Browser, pages: dict[str, Path]) -> None:
    cells = (
        "[...document.querySelectorAll('.chart')].filter((one) => one.data[0].type === 'heatmap')"
        ".map((one) => one.data[0].z.flat().filter((value) => value !== null).length)"
    )
    expected = {"extract": [28, 28], "transfer": [21, 21, 21], "compare": [28, 28, 28]}
    for name, wanted in expected.items():
        show(browser, pages[name])
        found = ask(browser, cells)
        # What was left out has a similarity, and nothing that could be kept.
        assert found[-len(wanted) + 1 :] == wanted[1:]
        assert found[0] in {wanted[0], 28}
        drawn = "document.querySelectorAll('.heatmaplayer image').length"
        assert ask(browser, drawn) == len(wanted)


def test_spectra_and_forests_are_drawn(browser: Browser, pages: dict[str, Path]) -> None:
    show(browser, pages["extract"])
    # A panel for each kind: a band of two lines and the median.
    assert ask(browser, "document.querySelectorAll('.small .scatterlayer .trace').length") == 7 * 3
    show(browser, pages["evaluate"])
    points = "document.querySelectorAll('.scatterlayer .point').length"
    assert ask(browser, points) == len(made.COMPARED) * len(made.METRICS)
    assert ask(browser, "document.querySelectorAll('.bars .point').length") == 6
    errors = "document.querySelectorAll('.scatterlayer .errorbar').length"
    assert ask(browser, errors) == len(made.COMPARED) * len(made.METRICS)


def test_the_table_sorts_both_ways_and_back(browser: Browser, pages: dict[str, Path]) -> None:
    show(browser, pages["extract"])
    place, button = heading(browser, "energy")
    before = column(browser, 0)
    for direction, sign in (("ascending", 1), ("descending", -1)):
        button.click()
        assert (
            ask(browser, f"document.querySelectorAll('#table th')[{place}].ariaSort") == direction
        )
        cells = column(browser, place)
        figures = [float(one.rstrip("%")) for one in cells if one != "–"]
        assert figures == sorted(figures, key=lambda value, sign=sign: sign * value)
        assert len(set(figures)) > 3
        # What has no figure comes last either way.
        assert "–" not in cells[: len(figures)]
    button.click()
    assert column(browser, 0) == before


def test_the_table_can_be_used_by_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    show(browser, pages["extract"])
    _, button = heading(browser, "name")
    browser.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    names = column(browser, 0)
    assert names == sorted(names)
    assert names != (button.send_keys(Keys.SPACE), column(browser, 0))[1]


def test_the_filter_and_the_choices_narrow_the_table(
    browser: Browser, pages: dict[str, Path]
) -> None:
    show(browser, pages["extract"])
    everything = counts(browser)
    field = browser.find_element(By.ID, "filter")
    field.send_keys("layers.2 PROJ")
    names = column(browser, 0)
    assert len(names) == 7
    assert all("layers.2" in name and "proj" in name for name in names)
    assert counts(browser) == "1–7 of 7"
    kinds = next(
        one for one in browser.find_elements(By.CSS_SELECTOR, "#choices label")
        if one.text.startswith("kind")
    )  # fmt: skip
    choice = Select(kinds.find_element(By.TAG_NAME, "select"))
    choice.select_by_visible_text("q_proj")
    assert column(browser, 0) == ["model.layers.2.self_attn.q_proj.weight"]
    choice.select_by_index(0)
    field.clear()
    field.send_keys("nothing of this name")
    assert (column(browser, 0), counts(browser)) == ([], "nothing matches")
    field.clear()
    field.send_keys(Keys.SPACE)
    assert counts(browser) == everything


def test_pages_are_turned(browser: Browser, pages: dict[str, Path]) -> None:
    show(browser, pages["extract"])
    # 4 layers of 9 tensors, embedding, norm and head.
    assert counts(browser) == "1–25 of 39"
    first = column(browser, 0)
    browser.find_element(By.ID, "next").click()
    assert counts(browser) == "26–39 of 39"
    assert not set(first) & set(column(browser, 0))
    assert not browser.find_element(By.ID, "next").is_enabled()
    browser.find_element(By.ID, "previous").click()
    assert column(browser, 0) == first


def test_dark_mode_is_followed_by_the_page_and_its_charts(
    browser: Browser, pages: dict[str, Path]
) -> None:
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    ink = "getComputedStyle(document.querySelector('.ytick text')).fill"
    show(browser, pages["compare"], dark=True)
    assert brightness(ask(browser, ground)) < 40.0
    assert brightness(ask(browser, ink)) > 130.0
    scale = "document.querySelectorAll('.chart')[1].data[0].colorscale[4][1]"
    middle = ask(browser, scale)
    scheme(browser, dark=False)
    WebDriverWait(browser, 10).until(lambda _: ask(browser, scale) != middle)
    assert brightness(ask(browser, ground)) > 240.0
    assert brightness(ask(browser, ink)) < 130.0


@pytest.mark.parametrize("name", NAMES)
def test_a_phone_scrolls_in_one_direction(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    show(browser, pages[name], width=PHONE)
    assert ask(browser, "document.documentElement.scrollWidth") == PHONE
    assert ask(browser, "document.body.scrollWidth") == PHONE
    widths = ask(
        browser, "[...document.querySelectorAll('.main-svg')].map((one) => one.clientWidth)"
    )
    assert max(widths) <= PHONE


def test_charts_follow_the_width(browser: Browser, pages: dict[str, Path]) -> None:
    show(browser, pages["compare"])
    width = "document.querySelector('.main-svg').clientWidth"
    wide = ask(browser, width)
    metrics = {"width": 500, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    WebDriverWait(browser, 10).until(lambda _: ask(browser, width) < min(wide, 500))


def test_print_is_light_and_fits_the_paper(browser: Browser, pages: dict[str, Path]) -> None:
    show(browser, pages["extract"], dark=True)
    # The event comes first, the medium changes after it.
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    ink = "getComputedStyle(document.querySelector('.ytick text')).fill"
    assert brightness(ask(browser, ink)) < 130.0
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    sizes = "[...document.querySelectorAll('.main-svg')].map((one) => one.getBoundingClientRect())"
    # The text of an A4 page between margins of 15 mm is 680 CSS pixels wide.
    assert max(box["right"] for box in ask(browser, sizes)) <= 681.0
    assert ask(browser, "getComputedStyle(document.querySelector('.tools')).display") == "none"
    scheme(browser, dark=True)
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert brightness(ask(browser, ink)) > 130.0


def test_hostile_names_run_nothing(browser: Browser, tmp_path: Path) -> None:
    data = made.experts(1, 2)
    run = "document.title='run'"
    script = f'<img src=x onerror="{run}"></script><script>{run}</script><b>bold</b>'
    for row in (*data["tensors"], *data["modules"]):
        row["name"] = f"{row['name']}.{script}"
    (tmp_path / "report.html").write_text(html_report(data), encoding="utf-8")
    show(browser, tmp_path / "report.html")
    assert ask(browser, "document.title") != "run"
    assert any(script in name for name in column(browser, 0))
    labels = ask(
        browser, "[...document.querySelectorAll('.ytick text')].map((one) => one.textContent)"
    )
    assert any(label.endswith("<b>bold</b>") for label in labels)
    assert ask(browser, "document.querySelectorAll('img').length") == 0


def test_thirty_thousand_experts_open_in_three_seconds(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(html_report(made.experts()), encoding="utf-8")
    # The first time the machine may be about something else.
    assert min(show(browser, page) for _ in range(3)) < 3.0
    assert counts(browser) == "1–25 of 30,721"
    cells = "document.querySelectorAll('.chart')[0].data[0].z.flat().length"
    assert ask(browser, cells) == made.EXPERT_LAYERS * len(made.EXPERT_KINDS)
    browser.find_element(By.ID, "filter").send_keys("layers.39.mlp.experts.255.")
    assert counts(browser) == "1–3 of 3"
