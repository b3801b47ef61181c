"""The report in a real browser, from disk, at the width of a desk and of a phone."""

import base64
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from hf_rlsearch.report import PLOTS, write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install 'hf-rlsearch[test]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"),
]
WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, study: optuna.Study) -> Path:
    return write_report(study, tmp_path_factory.mktemp("report") / "report.html")


def show(browser: Any, page: Path, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())


def requests(browser: Any) -> list[str]:
    """Every address that was asked for since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def column(browser: Any, index: int) -> list[str]:
    script = (
        "return [...document.querySelectorAll('table.sortable tbody tr')].map(r => r.cells[arguments[0]].innerText)"
    )
    texts: list[str] = browser.execute_script(script, index)
    return texts


@pytest.mark.parametrize("width", WIDTHS)
def test_loads_from_disk_without_network_or_error(browser: Any, page: Path, width: int) -> None:
    requests(browser)
    show(browser, page, width)
    assert [u for u in requests(browser) if not u.startswith("data:")] == [page.as_uri()]
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", WIDTHS)
def test_every_plot_is_visible_and_the_page_does_not_scroll_sideways(browser: Any, page: Path, width: int) -> None:
    show(browser, page, width)
    script = """return [...document.querySelectorAll('figure')].map(f => {
        const shown = [...f.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width > 300);
        return [f.id, shown.length, shown[0]?.querySelectorAll('[data-t], rect').length]; })"""
    plots = {name: (shown, marks) for name, shown, marks in browser.execute_script(script)}
    wanted = {f"plot-{n}" for n in PLOTS if "<" not in n} - {"plot-trade-off", "plot-confirmations"} | {
        "plot-slice-learning_rate"
    }
    assert wanted <= set(plots)
    assert [name for name, (shown, marks) in plots.items() if shown != 1 or marks < 4] == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_text_is_large_enough_to_read(browser: Any, page: Path, width: int) -> None:
    show(browser, page, width)
    script = """return [...document.querySelectorAll('svg text, td, dd, p, figcaption, small')]
        .filter(t => t.getClientRects().length)
        .map(t => { const m = t.getScreenCTM ? t.getScreenCTM().a : 1;
                    return [parseFloat(getComputedStyle(t).fontSize) * m, t.textContent]; })"""
    sizes = browser.execute_script(script)
    assert len(sizes) > 100
    assert [entry for entry in sizes if entry[0] < 9] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_labels_do_not_leave_their_plot(browser: Any, page: Path, width: int) -> None:
    show(browser, page, width)
    script = """return [...document.querySelectorAll('svg text')].filter(t => t.getClientRects().length).filter(t => {
        const a = t.getBoundingClientRect(), b = t.closest('svg').getBoundingClientRect();
        return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
        }).map(t => t.closest('figure').id + ': ' + t.textContent)"""
    assert browser.execute_script(script) == []


def test_table_sorts_by_number_both_ways_and_by_text(browser: Any, page: Path) -> None:
    show(browser, page, 1280)
    heads = browser.find_elements("css selector", "table.sortable th button")
    names = [head.text for head in heads]
    loss = names.index("eval_loss")
    for reverse in (False, True):
        browser.execute_script("arguments[0].click()", heads[loss])
        values = [float(text) for text in column(browser, loss) if text != "–"]
        assert values == sorted(values, reverse=reverse)
    assert browser.find_elements("css selector", "th[aria-sort=descending]")[0].text == "eval_loss"
    rate = names.index("learning_rate")
    browser.execute_script("arguments[0].click()", heads[rate])
    assert (rates := [float(text) for text in column(browser, rate)]) == sorted(rates)
    status = names.index("status")
    browser.execute_script("arguments[0].click()", heads[status])
    assert (texts := column(browser, status)) == sorted(texts)


def test_table_filters(browser: Any, page: Path) -> None:
    show(browser, page, 1280)
    browser.find_element("css selector", "input[type=search]").send_keys("failed")
    script = "return [...document.querySelectorAll('table.sortable tbody tr')].filter(r => !r.hidden).length"
    assert browser.execute_script(script) == 2


def test_pointer_follows_a_trial_through_all_plots(browser: Any, page: Path) -> None:
    show(browser, page, 1280)
    script = """const line = document.querySelector('#plot-parallel .desk [data-t="3"]');
        line.dispatchEvent(new Event('pointerover', {bubbles: true}));
        return [...document.querySelectorAll('.on')].map(m => m.dataset.t ?? m.dataset.row)"""
    marked = browser.execute_script(script)
    assert set(marked) == {"3"}
    assert len(marked) > 6


def test_dark_theme_changes_the_colours(browser: Any, page: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    shades = []
    for theme in ("light", "dark"):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        )
        show(browser, page, 1280)
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", {})["data"]
        picture = image.open(io.BytesIO(base64.b64decode(shot))).convert("L")
        shades.append(sum(i * n for i, n in enumerate(picture.histogram())) / (picture.width * picture.height))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert shades[0] > 200
    assert shades[1] < 70


def test_a_big_search_is_shown_without_error(
    browser: Any, make_study: Callable[..., optuna.Study], tmp_path: Path
) -> None:
    show(browser, write_report(make_study(200, 100), tmp_path / "report.html"), 390)
    assert browser.get_log("browser") == []
    assert len(column(browser, 0)) == 200
