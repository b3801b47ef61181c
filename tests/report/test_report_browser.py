"""The report in a real browser, from disk, at the width of a desk and of a phone."""

import base64
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from hf_rlsearch.report import PLOTS, write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install 'hf-rlsearch[test]'")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait
ActionChains = webdriver.ActionChains
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
    wait_until_drawn(browser)


def wait_until_drawn(browser: Any, scheme: str = "") -> None:
    drawn = f"const drawn = document.documentElement.dataset.drawn; return drawn && drawn.startsWith('{scheme}')"
    WebDriverWait(browser, 60).until(lambda b: b.execute_script(drawn))


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
def test_every_chart_is_drawn_as_wide_as_its_place_and_the_page_does_not_scroll_sideways(
    browser: Any, page: Path, width: int
) -> None:
    show(browser, page, width)
    script = """return [...document.querySelectorAll('.chart')].map(place => [place.dataset.chart, place.clientWidth,
        place.querySelector('svg')?.getBoundingClientRect().width,
        place.querySelectorAll('.mark-group, .role-mark').length])"""
    charts = {name: (place, drawn, marks) for name, place, drawn, marks in browser.execute_script(script)}
    wanted = {n for n in PLOTS if "<" not in n} - {"trade-off", "confirmations"} | {"slice-learning_rate"}
    assert wanted <= set(charts)
    wrong = {n: c for n, c in charts.items() if c[1] is None or not c[0] - 6 <= c[1] <= c[0] + 1 or not c[2]}
    assert wrong == {}
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_text_is_large_enough_to_read(browser: Any, page: Path, width: int) -> None:
    show(browser, page, width)
    script = """return [...document.querySelectorAll('svg text, td, dd, p, figcaption, small')]
        .filter(t => t.getClientRects().length)
        .filter(t => getComputedStyle(t).opacity !== '0')
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
    state = names.index("state")
    browser.execute_script("arguments[0].click()", heads[state])
    assert (texts := column(browser, state)) == sorted(texts)


def test_table_filters(browser: Any, page: Path) -> None:
    show(browser, page, 1280)
    browser.find_element("css selector", "input[type=search]").send_keys("failed")
    script = "return [...document.querySelectorAll('table.sortable tbody tr')].filter(r => !r.hidden).length"
    assert browser.execute_script(script) == 2


# Opacities of the marks of a chart by the number of their trial, as they are on the screen.
MARKS = """const found = {};
    const visit = mark => { for (const item of mark.items ?? []) {
        if (mark.marktype === 'group') item.items.forEach(visit);
        else if (item.datum?.trial !== undefined)
            found[item.datum.trial] = Math.max(found[item.datum.trial] ?? 0, item.opacity ?? 1);
    } };
    visit(document.querySelector(`[data-chart="${arguments[0]}"]`).view.scenegraph().root);
    return Object.entries(found).map(([trial, opacity]) => [Number(trial), opacity]);"""


def strong(browser: Any, chart: str) -> set[int]:
    """The trials whose marks are not faded in a chart."""
    return {trial for trial, opacity in browser.execute_script(MARKS, chart) if opacity > 0.3}


def strong_rows(browser: Any) -> set[int]:
    script = "return [...document.querySelectorAll('tr.on')].map(row => Number(row.dataset.trial))"
    return set(browser.execute_script(script))


def place_of(browser: Any, chart: str, trial: int) -> tuple[float, float]:
    """Where the mark of a trial is in the window, after scrolling there."""
    script = """const place = document.querySelector(`[data-chart="${arguments[0]}"]`);
        place.scrollIntoView({block: 'center', behavior: 'instant'});
        const box = place.querySelector('svg').getBoundingClientRect(), view = place.view;
        const [left, top] = [view.origin()[0] + view.padding().left, view.origin()[1] + view.padding().top];
        const points = [];
        const visit = mark => { for (const item of mark.items ?? []) {
            if (mark.marktype === 'group') item.items.forEach(visit);
            if (item.datum?.trial === arguments[1] && mark.marktype === 'symbol' && item.opacity) points.push(item);
        } };
        visit(view.scenegraph().root);
        return [box.left + left + points[0].x, box.top + top + points[0].y];"""
    x, y = browser.execute_script(script, chart, trial)
    return x, y


def move(browser: Any, *places: tuple[float, float], drag: bool = False) -> None:
    """Moves the pointer from place to place, with its button down in between if `drag`."""
    actions = ActionChains(browser, duration=20)
    first, *rest = places
    actions.w3c_actions.pointer_action.move_to_location(*map(round, first))
    if drag:
        actions.w3c_actions.pointer_action.pointer_down()
    for place in rest:
        actions.w3c_actions.pointer_action.move_to_location(*map(round, place))
    if drag:
        actions.w3c_actions.pointer_action.pointer_up()
    actions.perform()
    time.sleep(0.5)  # the page answers after a moment, so that a brush is not read at every pixel


CHARTS = ("best-so-far", "metrics", "allocation", "gantt", "learning-curves", "parallel", "slice-weight_decay", "time")


def test_pointer_on_a_trial_shows_all_its_values_and_follows_it_through_all_charts(
    browser: Any, page: Path, study: optuna.Study
) -> None:
    show(browser, page, 1280)
    move(browser, (5, 5), place_of(browser, "metrics", 3))
    tip = browser.find_element("id", "vg-tooltip-element")
    assert "visible" in tip.get_attribute("class")
    lines = dict(line.rsplit(" ", 1) for line in tip.text.splitlines())
    assert lines["trial"] == "3"
    assert set(study.trials[3].params) | {"eval_loss", "status", "training", "memory"} <= {*lines, "memory"}
    assert float(lines["learning_rate"]) == pytest.approx(study.trials[3].params["learning_rate"], rel=1e-3)
    assert {chart: strong(browser, chart) for chart in CHARTS} == {chart: {3} for chart in CHARTS}
    assert strong_rows(browser) == {3}
    move(browser, (5, 5))
    assert len(strong(browser, "best-so-far")) == len(study.trials)


def test_a_brush_picks_the_same_trials_in_all_charts_and_the_table(
    browser: Any, page: Path, study: optuna.Study
) -> None:
    show(browser, page, 1280)
    x, y = place_of(browser, "best-so-far", study.best_trial.number)
    move(browser, (x - 12, y + 12), (x, y), (x + 12, y - 12), drag=True)
    move(browser, (5, 5))
    picked = strong_rows(browser)
    assert study.best_trial.number in picked
    assert 0 < len(picked) < len(study.trials)
    assert {chart: strong(browser, chart) for chart in CHARTS} == dict.fromkeys(CHARTS, picked)
    # a brush elsewhere takes its place: there is one selection
    x, y = place_of(browser, "metrics", 0)
    move(browser, (x + 9, y - 9), (x, y), (x - 5, y + 9), drag=True)
    move(browser, (5, 5))
    assert 0 in strong_rows(browser)
    assert study.best_trial.number not in strong_rows(browser)
    assert {chart: strong(browser, chart) for chart in CHARTS} == dict.fromkeys(CHARTS, strong_rows(browser))
    browser.find_element("css selector", "#picked button").click()
    move(browser, (5, 5))
    assert strong_rows(browser) == set()
    assert len(strong(browser, "best-so-far")) == len(study.trials)


def test_rows_of_the_table_pick_trials_in_all_charts(browser: Any, page: Path) -> None:
    show(browser, page, 1280)
    for trial in (2, 5):
        browser.execute_script(f"document.querySelector('tr[data-trial=\"{trial}\"]').click()")
    time.sleep(0.3)
    assert {chart: strong(browser, chart) for chart in CHARTS} == {chart: {2, 5} for chart in CHARTS}
    assert browser.find_element("id", "picked").text.startswith("2 trials: 2, 5")


def test_wheel_zooms_with_the_control_key_and_scrolls_the_page_without(browser: Any, page: Path) -> None:
    show(browser, page, 1280)
    x, y = place_of(browser, "best-so-far", 0)
    domain = "return document.querySelector('[data-chart=\"best-so-far\"]').view.scale('x').domain()"
    before, top = browser.execute_script(domain), browser.execute_script("return scrollY")
    wheel = {"type": "mouseWheel", "x": x + 200, "y": y + 50, "deltaX": 0, "deltaY": -200}
    browser.execute_cdp_cmd("Input.dispatchMouseEvent", {**wheel, "deltaY": 200})
    time.sleep(0.6)
    assert browser.execute_script(domain) == before
    assert browser.execute_script("return scrollY") > top
    x, y = place_of(browser, "best-so-far", 0)
    browser.execute_cdp_cmd("Input.dispatchMouseEvent", {**wheel, "y": y + 50, "modifiers": 2})
    time.sleep(0.6)
    after = browser.execute_script(domain)
    assert after[1] - after[0] < before[1] - before[0]


def test_any_metric_can_be_chosen(browser: Any, page: Path) -> None:
    show(browser, page, 1280)
    script = """const place = document.querySelector('[data-chart="metrics"]');
        const select = place.querySelector('select[name="vertical"]');
        select.value = arguments[0]; select.dispatchEvent(new Event('change'));
        return new Promise(done => setTimeout(() => done(place.view.scale('y').domain()), 300))"""
    domains = [browser.execute_script(script, name) for name in ("eval_loss", "peak memory (MB)")]
    assert domains[0][1] < 2
    assert domains[1][0] > 300


def test_numbers_fit_their_cells(browser: Any, page: Path) -> None:
    for width in WIDTHS:
        show(browser, page, width)
        script = """const place = document.querySelector('[data-chart="heat-map"]');
            const texts = [...place.querySelectorAll('.mark-text.role-mark text')];
            const shown = texts.filter(t => t.getAttribute('opacity') !== '0');
            return [place.view.scale('x').bandwidth(), shown.map(t => t.getBoundingClientRect().width)]"""
        room, widths = browser.execute_script(script)
        assert [w for w in widths if w > room] == []


def test_dark_theme_changes_the_colours(browser: Any, page: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    shades = []
    for theme in ("light", "dark"):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        )
        show(browser, page, 1280)
        wait_until_drawn(browser, theme)
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


def test_names_and_values_cannot_become_markup_in_charts(browser: Any, tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(2)>"
    study = optuna.create_study()
    choices = optuna.distributions.CategoricalDistribution([bad, "b"])
    for value in (1.0, 2.0, 3.0):
        metrics = {"rl:metrics": {bad: value}}
        trial = optuna.trial.create_trial(
            value=value, params={bad: bad}, distributions={bad: choices}, user_attrs=metrics
        )
        study.add_trial(trial)
    show(browser, write_report(study, tmp_path / "report.html"), 1280)
    move(browser, (5, 5), place_of(browser, "metrics", 1))
    assert bad in browser.find_element("id", "vg-tooltip-element").text
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    assert browser.get_log("browser") == []
