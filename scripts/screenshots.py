"""Renews the pictures under docs/images from one real search: terminal, log file, notebook and report.

    python scripts/screenshots.py                                   # searches in runs/screenshots, then takes all
    python scripts/screenshots.py sqlite:///path/of/a/search.db     # the report alone, of another search

The search is the example of the README with more trials. It is interrupted in a terminal by Ctrl-C and continued with
its output in a file, so one search shows both. A search that is finished in that folder is not made again: delete the
folder for a new one.

Needs chromium and chromium-driver (Debian's packages of these names), and the extras [report] and [test].
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hf_rlsearch import SearchResult
from hf_rlsearch.report import open_study, write_report

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "images"
RUN = ROOT / "runs" / "screenshots"
N_TRIALS = 14
# Columns and rows of the terminal.
COLUMNS, ROWS = 112, 40
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
_TEXT_PAGE = """<!doctype html><meta charset="utf-8"><style>
    body {{ margin: 0; background: #fff }}
    pre {{ margin: 0; padding: 14px 18px; background: #1c2128; color: #d5dbe3; width: {columns}ch;
           font: 13px/1.45 "DejaVu Sans Mono", monospace; white-space: pre-wrap; overflow-wrap: anywhere }}
    b {{ color: #7fd1a0; font-weight: normal }}
    </style><pre id="shown">{text}</pre>"""
# As JupyterLab draws a cell and a table.
_NOTEBOOK_PAGE = """<!doctype html><meta charset="utf-8"><style>
    body {{ margin: 0; background: #fff; color: #000; font: 13px/1.4 "DejaVu Sans", sans-serif }}
    #shown {{ padding: 12px; width: max-content }}
    .cell {{ display: grid; grid-template-columns: 60px auto; margin-bottom: 8px }}
    .prompt {{ font: 12px "DejaVu Sans Mono", monospace; color: #307fc1; padding-top: 7px }}
    .out .prompt {{ color: #bf5b3d }}
    code {{ display: block; padding: 6px 8px; background: #f5f5f5; border: 1px solid #e0e0e0; white-space: pre;
            font: 12px/1.5 "DejaVu Sans Mono", monospace }}
    pre {{ margin: 6px 0; width: 0; min-width: 100%; white-space: pre-wrap;
           font: 12px/1.5 "DejaVu Sans Mono", monospace }}
    table {{ border-collapse: collapse; font-size: 12px }}
    td, th {{ padding: 6px; text-align: right; white-space: nowrap }}
    thead {{ border-bottom: 1px solid #bdbdbd }}
    tbody tr:nth-child(odd) {{ background: #f5f5f5 }}
    </style><div id="shown">
    <div class="cell"><div class="prompt">[1]:</div><code>{code}</code></div>
    <div class="cell out"><div class="prompt">[1]:</div><div>{output}</div></div></div>"""
_CODE = """from hf_rlsearch import SearchResult

SearchResult.load("runs/readme")"""


def search(folder: Path) -> None:
    """Runs the example of the README in a folder, first in a terminal, then with its output in a file."""
    example = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)[1]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text(re.sub(r"n_trials=\d+", f"n_trials={N_TRIALS}", example), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    # Two trials have ended, and of the next one an evaluation is there.
    shown = _in_a_terminal(folder, environment, until=r"([\r\n]Trial .*){2}, trial \d+ at \d")
    (folder / "terminal.txt").write_text(shown.replace(f"{folder}/", ""), encoding="utf-8")
    with (folder / "unfinished.txt").open("w") as log:
        command = [sys.executable, "train.py"]
        subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)
    shown = (folder / "unfinished.txt").read_text(encoding="utf-8")
    (folder / "log.txt").write_text(on_screen(shown).replace(f"{folder}/", ""), encoding="utf-8")


def _in_a_terminal(folder: Path, environment: dict[str, str], *, until: str) -> str:
    """Runs train.py in a terminal until its output has this pattern; returns what stands there after Ctrl-C."""
    import fcntl
    import pty
    import struct
    import termios

    process, terminal = pty.fork()
    if process == 0:
        fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where this script runs in the background
        os.chdir(folder)
        os.execve(sys.executable, [sys.executable, "train.py"], environment)
    output = b""
    is_interrupted = False
    while True:
        try:
            read = os.read(terminal, 65536)
        except OSError:  # as Linux says that nobody is at the other end
            break
        output += read
        if not is_interrupted and re.search(until, output.decode(errors="replace"), flags=re.DOTALL):
            is_interrupted = True
            # What is shown until now, with the bar: Ctrl-C empties it.
            before = on_screen(output.decode(errors="replace"))
            os.kill(process, signal.SIGINT)
    os.waitpid(process, 0)
    if not is_interrupted:
        sys.exit(f"train.py ended before it could be interrupted:\n{output.decode(errors='replace')[-2000:]}")
    after = on_screen(output.decode(errors="replace")).splitlines()
    return "\n".join([before + "^C", after[-1]])


def on_screen(output: str) -> str:
    """What a terminal shows of an output: a carriage return begins its line anew."""
    lines = []
    for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output).replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return "\n".join(lines).rstrip("\n")


def text_page(command: str, text: str) -> str:
    """A page that shows a command and what the search has printed, without what libraries said before."""
    before, first, after = text.partition("\nObjective: ")
    _, _, notes = before.rpartition("- MISSING:")  # the last line about the checkpoint
    shown = "\n".join([*notes.splitlines()[1:], first.strip() + " " + after])
    return _TEXT_PAGE.format(columns=COLUMNS, text=f"<b>$ {html.escape(command)}</b>\n{html.escape(shown.strip())}")


def notebook_page(result: SearchResult) -> str:
    """A page that shows a search as a cell of a notebook does."""
    return _NOTEBOOK_PAGE.format(code=html.escape(_CODE), output=result._repr_html_())


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
    """A PNG of a report: its first `height` rows, or the whole of the part that `selector` names.

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
    return _capture(browser, top, width, height)


def shoot_page(browser: Any, page: Path) -> bytes:
    """A PNG of the element `shown` of a page."""
    browser.get(page.as_uri())
    box = browser.execute_script(
        "const b = document.getElementById('shown').getBoundingClientRect(); return [b.width, b.height]"
    )
    return _capture(browser, 0, *box)


def _capture(browser: Any, top: float, width: float, height: float) -> bytes:
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
    """Makes the search where it is missing, and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", help="storage of another search, of which only the report is shown")
    parser.add_argument("--study", help="name of the study, where the storage has several")
    args = parser.parse_args()
    if args.source is None and not (RUN / "log.txt").is_file():
        search(RUN)
    FOLDER.mkdir(parents=True, exist_ok=True)
    browser = open_browser()
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            if args.source is None:
                terminal, log = ((RUN / name).read_text(encoding="utf-8") for name in ("terminal.txt", "log.txt"))
                pages = {
                    "terminal.png": text_page("python train.py", terminal),
                    "log.png": text_page("python train.py > train.log 2>&1; cat train.log", log.rstrip()),
                    "notebook.png": notebook_page(SearchResult.load(RUN / "runs" / "readme")),
                }
                for name, page in pages.items():
                    (folder / "page.html").write_text(page, encoding="utf-8")
                    _save(name, shoot_page(browser, folder / "page.html"))
            study = open_study(args.source or str(RUN / "runs" / "readme"), study_name=args.study)
            report = write_report(study, folder / "report.html")
            for name, (width, height, theme, selector) in SHOTS.items():
                _save(name, shoot(browser, report, name, width, height, theme, selector))
    finally:
        browser.quit()


def _save(name: str, png: bytes) -> None:
    (FOLDER / name).write_bytes(png)
    print(FOLDER / name)


if __name__ == "__main__":
    main()
