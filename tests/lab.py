"""In a real browser: explore.ipynb in JupyterLab, the pages by axe-core.

`make labtest`. Needs the extra `labtest` and a Chromium (Debian's: apt install
chromium), whose place CHROMIUM names. Not collected by pytest.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, TimeoutError, sync_playwright

ROOT = Path(__file__).parent.parent
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync", "--no-first-run"]
MINUTES = 3 * 60_000
REPORTS = ROOT / "reports"
PAGES = [REPORTS / "index.html", *sorted(REPORTS.glob("*/*.html"))]
PAGES = [page for page in PAGES if "-seed" not in page.name]
# Of runs two are enough: one page of an older exporter, and one with an inside to see.
PAGES += [
    REPORTS / "reference" / "gru-232605-epochs-seed0.html",
    REPORTS / "graphmert" / "published-12-80634-epochs-seed0.html",
]

BEGUN = (
    "[...document.querySelectorAll('.jp-InputPrompt')]"
    ".some(prompt => /[*0-9]/.test(prompt.innerText))"
)


def check(browser: Browser, page: Path) -> None:
    """Look at a page, wide and on a phone: no script error, no violation."""
    for width in (1280, 390):
        shown = browser.new_page(viewport={"width": width, "height": 900})
        errors: list[str] = []
        shown.on("pageerror", lambda error: errors.append(str(error)))  # noqa: B023
        shown.goto(page.as_uri())
        assert not errors, f"{page}: {errors[0]}"
        found = Axe().run(shown)
        assert not found.violations_count, f"{page}\n{found.generate_report()}"
        wide = shown.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{page} is {wide} pixels wide on a screen of {width}"
        shown.close()


def use(page: Page, address: str) -> None:
    """Run all cells and move the menu: nothing may fail, the figure must change."""
    page.goto(f"{address}/lab/tree/explore.ipynb?reset", timeout=MINUTES)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=MINUTES)
    page.wait_for_function(
        "document.querySelector('.jp-Notebook-ExecutionIndicator')"
        "?.dataset.status === 'idle'",
        timeout=MINUTES,
    )
    for _ in range(5):  # now and then JupyterLab is idle and yet does nothing
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        with suppress(TimeoutError):
            page.wait_for_function(BEGUN, timeout=10_000)
            break
    menu = page.locator(".widget-dropdown select")
    menu.wait_for(timeout=MINUTES)
    menu.scroll_into_view_if_needed()
    drawn = page.locator(".widget-interact .jp-OutputArea img, .widget-output img").last
    drawn.wait_for(timeout=MINUTES)
    before = drawn.get_attribute("src")
    menu.select_option(index=3)
    page.wait_for_function(
        "old => [...document.querySelectorAll('.widget-interact img, "
        ".widget-output img')].some(image => image.src !== old)",
        arg=before,
        timeout=MINUTES,
    )
    time.sleep(2)
    assert drawn.get_attribute("src") != before, "the figure did not change"
    failed = page.locator('[data-mime-type="application/vnd.jupyter.error"]').count()
    assert not failed, f"{failed} cells failed"


def main() -> None:
    """Start JupyterLab on a free port, with a copy of the notebook."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(ROOT / "notebooks" / "explore.ipynb", folder)
        command = [sys.executable, "-m", "jupyter", "lab", "--no-browser"]
        command += ["--allow-root", f"--port={port}", f"--notebook-dir={folder}"]
        command += ["--IdentityProvider.token=", "--ServerApp.password="]
        lab = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(100):
                time.sleep(0.3)
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
            with sync_playwright() as playwright:
                place = os.environ.get("CHROMIUM", "/usr/bin/chromium")
                browser = playwright.chromium.launch(executable_path=place, args=QUIET)
                for path in PAGES:
                    check(browser, path)
                print(f"{len(PAGES)} pages: no violation, nothing wider than a phone")
                # JupyterLab draws only cells that are in view: all of them are to be.
                page = browser.new_page(viewport={"width": 1280, "height": 12_000})
                use(page, address)
                if len(sys.argv) > 1:
                    page.screenshot(path=sys.argv[1])
                browser.close()
        finally:
            lab.terminate()
            lab.wait()
    print("explore.ipynb: all cells ran, the menu was moved, the figure changed")


if __name__ == "__main__":
    main()
