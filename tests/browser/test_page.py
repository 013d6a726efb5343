"""The pages in a real Chromium: what is chosen or typed is answered on the screen."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ROOT = Path(__file__).parents[2]
# Nothing is fetched from elsewhere: without these Chromium calls home by itself.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; `apt-get install chromium` brings it"),
]


@pytest.fixture
def url(efficientnet: str) -> str:
    return efficientnet


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as browser:
        yield browser


@pytest.fixture
def page(url: str, browser: Browser) -> Iterator[Page]:
    """The page of pictures, in a context of its own: no cookies or cache of another test's."""
    with browser.new_page(viewport={"width": 1100, "height": 760}) as page:
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{url}/image_inference")
        yield page
    assert [text for text in problems if "400" not in text] == []


def test_the_photograph_of_a_cat_is_shown_as_a_cat(page: Page, tmp_path: Path) -> None:
    page.set_input_files("#file", str(ROOT / "tests" / "images" / "chelsea.jpg"))
    best = page.locator("#scores li").first
    expect(best).to_contain_text("Egyptian", timeout=30_000)
    expect(best).to_contain_text("%")
    expect(page.locator("#scores li")).to_have_count(5)
    expect(page.locator("#preview")).to_be_visible()
    expect(page.locator("#legend")).to_contain_text("execute")
    picture = tmp_path / "page.png"
    page.screenshot(path=str(picture))
    assert picture.stat().st_size > 50_000


def test_a_sample_can_be_clicked_and_another_replaces_it(page: Page) -> None:
    page.click("[data-sample='coffee.jpg']")
    expect(page.locator("#scores li").first).to_contain_text("espresso", timeout=30_000)
    page.click("[data-sample='rocket.jpg']")
    expect(page.locator("#scores li").first).not_to_contain_text("espresso", timeout=30_000)
    expect(page.locator("#scores li")).to_have_count(5)


def test_what_is_no_picture_is_said_in_words(page: Page) -> None:
    page.set_input_files("#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": b"this is no picture"})
    expect(page.locator("#status")).to_contain_text("400: images[0]", timeout=30_000)
    expect(page.locator("#scores li")).to_have_count(0)


def test_the_first_page_tells_what_the_model_takes_and_leads_on(page: Page, url: str) -> None:
    page.goto(url)
    card = page.locator(".card")
    expect(card).to_contain_text("images: string [n]")
    expect(card).to_contain_text("probability: float32 [n, 1000]")
    expect(page.locator("#curl")).to_contain_text(f"{url}/v1/models/default/gen_client")
    card.get_by_text("Get a client").click()
    expect(page).to_have_url(f"{url}/generate_clients?model=default")


def test_the_example_of_the_json_page_is_answered_and_a_mistake_is_said(page: Page, url: str) -> None:
    page.goto(f"{url}/json_inference")
    expect(page.locator("#body")).to_have_value(re.compile('"images"'))
    page.click("#send")
    expect(page.locator("#status")).to_contain_text("200 in", timeout=30_000)
    expect(page.locator("#answer")).to_contain_text("Egyptian cat")
    page.fill("#body", "{")
    page.click("#send")
    expect(page.locator("#status")).to_contain_text("400 in")
    expect(page.locator("#answer")).to_contain_text("Invalid json data")


def test_a_client_of_every_language_is_written_for_this_address(page: Page, url: str) -> None:
    page.goto(f"{url}/generate_clients")
    for language, words in (("bash", "curl "), ("python", "urlopen"), ("javascript", "fetch("), ("golang", "http.New")):
        page.select_option("#language", language)
        expect(page.locator("#program")).to_contain_text(words)
        expect(page.locator("#program")).to_contain_text(f"{url}/")
        expect(page.locator("#save")).to_have_attribute("download", re.compile(r"client\.(sh|py|js|go)"))


def test_no_page_is_wider_than_a_telephone(page: Page, url: str) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    for path in ("", "image_inference", "json_inference", "generate_clients", "docs"):
        page.goto(f"{url}/{path}", wait_until="networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path


def test_the_page_of_the_api_unfolds_an_operation_with_a_body_for_this_model(page: Page, url: str) -> None:
    page.goto(f"{url}/docs")
    predict = page.locator("details", has_text="POST / Predict").first
    predict.locator("summary").click()
    expect(predict.locator("pre").first).to_contain_text('"images"')
    expect(page.locator("h2")).to_have_count(6)
    expect(page.locator("#status")).to_be_hidden()
