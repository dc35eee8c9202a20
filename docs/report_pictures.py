"""Writes the pictures of a report page, bench/results/report_{light,dark}.png. Needs Chromium (make browser).

fastrl tiny
fastrl train rltr-tiny --run.dir runs/pictures --run.log_completions_every 1 --eval.every 3 \\
    --transfer.num_cuts 3 --transfer.num_continuations 2
python docs/report_pictures.py runs/pictures
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

from browser import Browser  # noqa: E402

from fastrl.report.page import write_page  # noqa: E402

FOLDER = ROOT / "bench" / "results"
CURVES, COMPLETIONS = (1360, 1570), (1360, 960)
"""Width and height in pixels."""
STEP, SELECTED = 3, 9
"""Step whose completions are listed, and the selected row."""


def click_text(browser: Browser, selector: str, text: str) -> None:
    """Click the element whose text is `text`."""
    browser.run(
        f"[...document.querySelectorAll({json.dumps(selector)})]"
        f".find((node) => node.textContent === {json.dumps(text)}).click()"
    )


def shoot(run: Path) -> None:
    """Write both pictures of the report of a run folder."""
    with tempfile.TemporaryDirectory() as name:
        page = write_page(run, Path(name) / "report.html").path
        with Browser(Path(name) / "profile") as browser:
            browser.size(*CURVES)
            browser.prefer("light")
            browser.open(page)
            browser.shoot(FOLDER / "report_light.png")
            browser.size(*COMPLETIONS)
            browser.prefer("dark")
            browser.open(page)
            browser.press("r")
            browser.run(
                "(() => { const step = document.querySelector('select[aria-label=Step]');"
                f" step.value = [...step.options].find((each) => each.text.startsWith('Step {STEP} ')).value;"
                " step.dispatchEvent(new Event('change')); })()"
            )
            click_text(browser, ".list .head button", "Transfer")
            browser.run("document.querySelector('.view').focus()")
            browser.press("Home", *"j" * SELECTED)
            click_text(browser, "#sections a", "Completions")
            browser.run("new Promise((done) => setTimeout(done, 500))")
            browser.shoot(FOLDER / "report_dark.png")


if __name__ == "__main__":
    shoot(Path(sys.argv[1]))
