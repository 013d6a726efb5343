"""Chromium for the tests of pages. A page whose console has an error, or that asks another server, fails its test."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# Nothing is fetched from elsewhere: without these Chromium calls home by itself.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
PATIENCE_MS = 60_000  # two cores, and other tests on them
AXE = Path(__file__).parents[2] / ".bench" / "axe" / "axe_playwright_python" / "axe.min.js"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of this folder; without Chromium they are skipped."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if CHROMIUM is None:
                item.add_marker(pytest.mark.skip(reason="no chromium; `apt-get install chromium` brings it"))


@pytest.fixture(scope="module")  # while Playwright runs, no other test could run an event loop
def browser() -> Iterator[Browser]:
    """The browser of the tests of a file; each gets a page in a context of its own, without another's cookies and cache."""
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens an address in a new page; the arguments are those of Playwright's `new_page`."""
    pages: list[Page] = []
    problems: list[str] = []

    def hear(page: Page, home: str) -> None:
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        inside = (home, "blob:", "data:")
        page.on("request", lambda request: None if request.url.startswith(inside) else problems.append(request.url))

    def open_page(url: str, **arguments: Any) -> Page:
        page = browser.new_page(**{"viewport": {"width": 1100, "height": 760}} | arguments)
        page.set_default_timeout(PATIENCE_MS)
        hear(page, "/".join(url.split("/")[:3]) + "/")
        page.goto(url)
        pages.append(page)
        return page

    yield open_page
    hits = [page.url for page in pages if page.evaluate("window.hit")]
    for page in pages:
        page.close()
    assert hits == [], "a name became HTML"
    # Chromium itself reports an answer of 400 as an error.
    assert [text for text in problems if "status of 400" not in text] == []


@pytest.fixture
def find_barriers() -> Callable[..., list[str]]:
    """What axe-core finds on a page that keeps somebody out: the serious and critical violations, of one rule or of all."""
    if not AXE.exists():
        pytest.skip("`make .bench/axe.done` brings axe-core")
    script = AXE.read_text(encoding="utf-8")

    def find(page: Page, *rules: str) -> list[str]:
        if not page.evaluate("'axe' in window"):
            page.evaluate(script)  # by the debugger, which the policy of the page does not stop
        options = {"resultTypes": ["violations"]} | ({"runOnly": list(rules)} if rules else {})
        found = page.evaluate("(options) => axe.run(document, options).then((all) => all.violations)", options)
        return [
            f"{one['id']}: {node['html'][:120]}"
            for one in found
            if one["impact"] in {"serious", "critical"}
            for node in one["nodes"]
        ]

    return find
