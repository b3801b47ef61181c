"""Renews the pictures under docs/images: the report of a real search, as headless Chromium shows it.

    python scripts/screenshots.py sqlite:///path/of/a/search.db

Needs chromium and chromium-driver (Debian's packages of these names), and the extras [report] and [test].
"""

from __future__ import annotations

import argparse
import base64
import io
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hf_rlsearch.report import open_study, write_report

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "images"
# File name -> (width, height, theme, selector of the part to show or None for the top of the page); in pixels.
SHOTS: dict[str, tuple[int, int, str, str | None]] = {
    "report.png": (1280, 1360, "light", None),
    "report-dark.png": (1280, 1360, "dark", None),
    "report-allocation.png": (1280, 0, "light", "#allocation"),
    "report-space.png": (1280, 0, "light", "#space"),
    "report-picked.png": (1280, 0, "light", "#space .plots"),
    "report-why.png": (1280, 0, "light", "#why"),
    "report-phone.png": (390, 844, "light", None),
}
# Picks the five best trials, as clicks on their rows would.
_PICK = """const rows = [...document.querySelectorAll('tr[data-trial]')].filter(row => row.cells[2].dataset.k);
    const best = document.querySelector('tr.best').cells[2].dataset.k;
    rows.sort((a, b) => Math.abs(a.cells[2].dataset.k - best) - Math.abs(b.cells[2].dataset.k - best));
    rows.slice(0, 5).forEach(row => row.click());"""


def open_browser() -> Any:
    """Starts headless Chromium."""
    from selenium import webdriver

    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and driver):
        sys.exit("Screenshots need the commands chromium and chromedriver (Debian: chromium, chromium-driver).")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def shoot(browser: Any, page: Path, name: str, width: int, height: int, theme: str, selector: str | None) -> bytes:
    """A PNG of `page`: its first `height` rows, or the whole of the part that `selector` names.

    Where `name` says so, the best trials are picked.
    """
    from selenium.webdriver.support.ui import WebDriverWait

    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(page.as_uri())
    WebDriverWait(browser, 60).until(lambda b: b.execute_script("return document.documentElement.dataset.drawn"))
    if "picked" in name:
        browser.execute_script(_PICK)
        time.sleep(0.5)
    top, height = _place(browser, selector) if selector else (0, height)
    clip = {"x": 0, "y": top, "width": width, "height": height, "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    return _compressed(base64.b64decode(shot["data"]))


def _compressed(png: bytes) -> bytes:
    """The same picture with a palette: 256 colours are enough for charts, and take a third of the space."""
    from PIL import Image

    out = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(
        256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    ).save(out, "png", optimize=True)
    return out.getvalue()


def _place(browser: Any, selector: str) -> tuple[float, float]:
    """Top and height of a part; of the reasons the first ones, one of them open to show what is inside."""
    script = """document.querySelector('nav').style.position = 'static';
        document.querySelectorAll('.reasons').forEach(r => r.style.maxHeight = 'none');
        const reasons = [...document.querySelectorAll('#why .reasons > *')];
        reasons.slice(7).forEach(r => r.remove());
        const open = reasons.slice(3, 7).find(r => r.querySelector('.bars'));
        if (open) open.open = true;
        const b = document.querySelector(arguments[0]).getBoundingClientRect();
        return [b.top + scrollY, b.height + 16]"""
    top, height = browser.execute_script(script, selector)
    return top, height


def main() -> None:
    """Makes the report of the given storage and all pictures of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="storage of a finished search")
    parser.add_argument("--study", help="name of the study, where the storage has several")
    args = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    browser = open_browser()
    try:
        with tempfile.TemporaryDirectory() as folder:
            page = write_report(open_study(args.source, study_name=args.study), Path(folder, "report.html"))
            for name, (width, height, theme, selector) in SHOTS.items():
                (FOLDER / name).write_bytes(shoot(browser, page, name, width, height, theme, selector))
                print(FOLDER / name)
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
