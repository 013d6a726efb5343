"""The pages in a real Chromium, before a real server: what is chosen, dropped or typed is answered on the screen."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from playwright.sync_api import expect

from darkroom.models.engines.fakes import fake_model
from tests.browser.conftest import PATIENCE_MS
from tests.echo import scores_model
from tests.held import wait_for
from tests.serving import metric, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import FilePayload, Locator, Page

IMAGES = Path(__file__).parents[1] / "images"
NAMES = ("chelsea.jpg", "coffee.jpg", "rocket.jpg", "astronaut.jpg")
PAGES = ("", "image_inference", "live", "json_inference", "generate_clients", "docs")
QUARTER_TURN = 6  # EXIF's orientation

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture
def url(efficientnet: str) -> str:
    return efficientnet


@pytest.fixture
def page(url: str, visit: Callable[..., Page]) -> Page:
    """The page of pictures."""
    return visit(f"{url}/image_inference")


def _file(name: str, data: bytes) -> FilePayload:
    return {"name": name, "mimeType": "image/jpeg", "buffer": data}


def _card(page: Page, name: str) -> Locator:
    return page.locator(".picture-card", has=page.get_by_role("heading", name=name, exact=True))


def test_of_five_pictures_with_a_truncated_one_four_are_answered_and_one_has_its_error(
    page: Page, tmp_path: Path
) -> None:
    whole = [_file(name, (IMAGES / name).read_bytes()) for name in NAMES]
    page.set_input_files("#file", [*whole[:2], _file("cut.jpg", (IMAGES / NAMES[0]).read_bytes()[:30_000]), *whole[2:]])
    expect(page.locator("#status")).to_have_text("5 pictures: 4 answers, 1 error.")
    assert page.locator(".picture-card h3").all_inner_texts() == [
        "chelsea.jpg",
        "coffee.jpg",
        "cut.jpg",
        "rocket.jpg",
        "astronaut.jpg",
    ]
    expect(_card(page, "chelsea.jpg").locator(".scores li").first).to_contain_text("Egyptian cat")
    expect(_card(page, "chelsea.jpg").locator(".scores li")).to_have_count(5)
    expect(_card(page, "coffee.jpg").locator(".scores li").first).to_contain_text(re.compile(r"espresso\s*9\d\.\d %"))
    expect(_card(page, "cut.jpg").locator(".told")).to_contain_text("400: images[0]")
    page.screenshot(path=str(tmp_path / "page.png"))
    assert (tmp_path / "page.png").stat().st_size > 50_000


def test_a_sample_is_answered_with_where_its_time_went_and_removed(page: Page) -> None:
    page.click("[data-sample='coffee.jpg']")
    expect(page.locator(".told")).to_contain_text("in a batch of")
    page.get_by_text("Where the time went").click()
    for step in ("parse", "queue", "execute, batch of ", "answer", "network"):
        expect(page.locator(".waterfall")).to_contain_text(step)
    page.get_by_role("button", name="Remove coffee.jpg").click()
    expect(page.locator(".picture-card")).to_have_count(0)
    expect(page.locator("#status")).to_have_text("")


def test_pictures_are_dropped_and_pasted(page: Page) -> None:
    page.evaluate(
        """async () => {
          for (const type of ["drop", "paste"]) {
            const transfer = new DataTransfer();
            const data = await (await fetch("/web/rocket.jpg")).blob();
            transfer.items.add(new File([data], `${type}.jpg`, { type: "image/jpeg" }));
            const event = type === "drop" ? new DragEvent(type, { dataTransfer: transfer, bubbles: true })
              : new ClipboardEvent(type, { clipboardData: transfer, bubbles: true });
            document.body.dispatchEvent(event);
          }
        }"""
    )
    expect(page.locator("#status")).to_have_text("2 pictures: 2 answers.")
    expect(_card(page, "drop.jpg")).to_be_visible()
    expect(_card(page, "paste.jpg")).to_be_visible()


def test_a_file_that_is_no_picture_or_heic_or_turned_is_explained(page: Page) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
    jpeg = (IMAGES / "chelsea.jpg").read_bytes()
    entry = b"\x01\x12\0\x03\0\0\0\x01\0" + bytes([QUARTER_TURN]) + b"\0\0"
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + entry + bytes(4)
    turned = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    page.set_input_files("#file", [_file("a.jpg", b"no picture"), _file("b.heic", heic), _file("c.jpg", turned)])
    expect(page.locator("#status")).to_have_text("3 pictures: 1 answer, 2 errors.")
    expect(_card(page, "a.jpg")).to_contain_text("400: images[0]: not a JPEG")
    expect(_card(page, "b.heic")).to_contain_text("This is HEIC, which TensorFlow does not decode. Convert it first")
    expect(_card(page, "c.jpg")).to_contain_text("The model sees it a quarter turn to the left, as shown")
    sides = _card(page, "c.jpg").locator(".picture canvas").evaluate("(canvas) => [canvas.width, canvas.height]")
    assert sides[0] > sides[1], "the pixels as they are stored lie on their side no more than the cat"


def test_64_at_once_say_which_calls_they_shared(page: Page) -> None:
    page.click("#burst-send")
    expect(page.locator("#burst-answer")).to_contain_text("64 pictures answered")
    rows = page.locator("#batches li").all_inner_texts()
    assert sum(int(re.findall(r"(\d+) pictures?$", row)[0]) for row in rows) == 64
    assert max(int(re.findall(r"batch of (\d+)", row)[0]) for row in rows) > 1
    page.select_option("#burst-each", "8")
    page.click("#burst-send")
    expect(page.locator("#batches")).to_contain_text(re.compile(r"batch of \d+"))


def test_every_snippet_runs_as_it_is(page: Page, tmp_path: Path) -> None:
    name = 'it\'s a "cat" $HOME.jpg'
    shutil.copy(IMAGES / "chelsea.jpg", tmp_path / name)
    page.set_input_files("#file", tmp_path / name)
    page.click("[data-sample='chelsea.jpg']")
    expect(page.locator("#status")).to_have_text("2 pictures: 2 answers.")
    commands = {
        "curl": ["bash", "-c"],
        "Python": [sys.executable, "-c"],
        "JavaScript": ["node", "--input-type=module", "-e"],
    }
    for card in page.locator(".picture-card").all():
        card.get_by_text("The same from a program").click()
        for language, command in commands.items():
            card.get_by_label("Language").select_option(language)
            text = card.get_by_label(f"The request in {language}").inner_text()
            done = subprocess.run([*command, text], cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (language, text, done.stderr)
            assert "probability" in done.stdout
            if language == "curl":
                scores = json.loads(done.stdout)["probability"][0]
                assert scores.index(max(scores)) == 285
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("button", name=re.compile("Copied|Select it"))).to_be_visible()


def test_the_first_page_tells_what_is_served_and_what_happened_and_leads_on(
    url: str, visit: Callable[..., Page]
) -> None:
    httpx.post(f"{url}/?top_k=1", content=(IMAGES / "coffee.jpg").read_bytes(), headers={"Content-Type": "image/jpeg"})
    page = visit(url)
    card = page.locator(".card")
    for text in (
        "images: string [n]",
        "probability: float32 [n, 1000]",
        "gives predict",
        "1,000 scores",
        "1,000 labels",
    ):
        expect(card).to_contain_text(text)
    expect(card.locator(".versions")).to_have_text("available version 1")
    expect(page.locator("#server")).to_contain_text(re.compile(r"Darkroom .* with TensorFlow .*, up .*CPU, \d+ core"))
    expect(card.locator(".recent")).to_contain_text(re.compile(r"In the last 5 minutes: \d+ answered.*; .*99 % within"))
    card.get_by_text("Rewritten at the load").click()
    expect(card.locator(".passes")).to_contain_text("applied freeze")
    expect(page.locator("#curl")).to_contain_text(f"{url}/v1/models/default/gen_client")
    expect(card.get_by_text("Try a picture")).to_have_attribute("href", "/image_inference?model=default")
    card.get_by_text("Get a client").click()
    expect(page).to_have_url(f"{url}/generate_clients?model=default")


def test_pages_that_need_a_model_say_that_there_is_none_and_go_on_when_there_is(visit: Callable[..., Page]) -> None:
    with running(fake_model(name="default")) as server:
        httpx.post(f"{server.url}/admin/models/default/unload").raise_for_status()
        home = visit(server.url)
        expect(home.locator(".versions")).to_have_text("not served version 1: it was unloaded on request")
        for path in ("image_inference", "json_inference", "generate_clients"):
            page = visit(f"{server.url}/{path}")
            expect(page.locator("main")).to_contain_text("No model is served yet. The first page says why.")
            expect(page.locator("select, button, textarea")).to_have_count(0)
        httpx.post(f"{server.url}/admin/models/default/load").raise_for_status()
        expect(page.locator("#program")).to_contain_text("curl ")
        expect(home.locator(".versions")).to_have_text("available version 1")


def test_a_lazy_model_is_not_loaded_yet_and_the_pages_load_it(visit: Callable[..., Page], tmp_path: Path) -> None:
    config = tmp_path / "models.json"
    listed = [{"name": name, "base_path": "fake"} for name in ("one", "two")]
    config.write_text(json.dumps({"model_config_list": listed}))
    with running(model_config_file=config, load="lazy", max_loaded_models=1) as server:
        home = visit(server.url)
        unloaded = "not loaded yet version 1: the first request loads it"
        expect(home.locator(".versions")).to_have_text([unloaded, unloaded])
        assert metric(server.url, "darkroom_models_loaded") == 0
        home.get_by_role("link", name="Load it and try").last.click()
        expect(home.locator("#model")).to_have_value("two")
        home.locator("#model").select_option("one")
        home.wait_for_url("**/image_inference?model=one")
        expect(home.locator("#model")).to_have_value("one")
        assert metric(server.url, "darkroom_model_unloads_total", model="two", reason="limit") == 1


def test_the_first_page_says_which_versions_answer_and_how_one_beside_them_compares(
    visit: Callable[..., Page], find_barriers: Callable[..., list[str]]
) -> None:
    rule = {"split": {"1": 3, "2": 1, "9": 1}, "shadow": {"version": 3, "busy": 1}}
    models = [scores_model(version, best=version % 2) for version in (1, 2, 3)]
    with running(*models, traffic={"default": rule}) as server:
        page = visit(server.url)
        card = page.locator("[data-model='default']")
        expect(card).to_contain_text("Requests that name no version go 75.0 % to version 1, 25.0 % to version 2;")
        expect(card).to_contain_text("the same X-Darkroom-Sticky always meets the same version.")
        expect(card).to_contain_text("Version 3 runs beside, for 100.0 % of the answers at most.")
        expect(card.locator(".note")).to_have_text("Traffic: version 9 is not served, and the others have its share.")
        picture = (IMAGES / NAMES[0]).read_bytes()
        wait_for(
            lambda: (
                httpx.post(server.url, files={"image": ("a", picture)}).is_success
                and metric(server.url, "darkroom_shadow_images_total", outcome="same") > 0
            )
        )
        told = (
            r"Version 3 beside: [\d,]+ pictures? compared in the last 5 minutes, [\d.]+ % of them have the same class\."
        )
        expect(card.locator(".compared")).to_have_text(re.compile(told))
        assert find_barriers(page) == []
        httpx.put(f"{server.url}/admin/models/default/traffic", json={})
        expect(card).not_to_contain_text("Requests that name no version")


def test_the_live_page_moves_under_load_and_stops_when_it_is_hidden(url: str, visit: Callable[..., Page]) -> None:
    page = visit(f"{url}/live")
    expect(page.locator("#status")).to_have_text("Live.")
    expect(page.locator(".chart canvas")).to_have_count(4)
    picture, kind = (IMAGES / "coffee.jpg").read_bytes(), {"Content-Type": "image/jpeg"}
    with httpx.Client() as client:
        calls = page.locator("#sizes li", has_text="call")
        while not calls.count() or page.locator("#now dd").first.inner_text() == "0":
            assert client.post(url, content=picture, headers=kind).status_code == 200
    expect(page.locator("#outcomes")).to_contain_text("answered")
    label = page.get_by_label(re.compile(r"Rate, a second\. requests: \d"))
    expect(label).to_be_visible()
    expect(page.locator("#model option")).to_have_text(["all", "default", "default, version 1"])
    page.evaluate("Object.defineProperty(document, 'hidden', {configurable: true, get: () => true})")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#status")).to_contain_text("Paused")
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#status")).to_have_text("Live.")


def test_the_example_of_the_json_page_is_answered_and_a_mistake_is_said(url: str, visit: Callable[..., Page]) -> None:
    page = visit(f"{url}/json_inference")
    expect(page.locator("#body")).to_have_value(re.compile('"images"'))
    page.click("#send")
    expect(page.locator("#status")).to_contain_text("200 in")
    expect(page.locator("#answer")).to_contain_text("Egyptian cat")
    page.fill("#body", "{")
    page.click("#send")
    expect(page.locator("#status")).to_contain_text("400 in")
    expect(page.locator("#answer")).to_contain_text("Invalid json data")


def test_a_client_of_every_language_is_written_for_this_address(url: str, visit: Callable[..., Page]) -> None:
    page = visit(f"{url}/generate_clients")
    for language, words in (("bash", "curl "), ("python", "urlopen"), ("javascript", "fetch("), ("golang", "http.New")):
        page.select_option("#language", language)
        expect(page.locator("#program")).to_contain_text(words)
        expect(page.locator("#program")).to_contain_text(f"{url}/")
        expect(page.locator("#save")).to_have_attribute("download", re.compile(r"client\.(sh|py|js|go)"))


def test_the_page_of_the_api_unfolds_an_operation_with_a_body_for_this_model(
    url: str, visit: Callable[..., Page]
) -> None:
    page = visit(f"{url}/docs")
    predict = page.locator("details", has_text="POST / Predict").first
    predict.locator("summary").click()
    expect(predict.locator("pre").first).to_contain_text('"images"')
    expect(page.locator("h2")).to_have_count(6)
    expect(page.locator("#status")).to_be_hidden()


@pytest.mark.parametrize("path", PAGES)
def test_no_page_keeps_anybody_out_or_is_wider_than_its_screen(
    path: str, url: str, visit: Callable[..., Page], find_barriers: Callable[..., list[str]]
) -> None:
    page = visit(f"{url}/{path}")
    if path == "image_inference":
        coffee = _file("coffee.jpg", (IMAGES / "coffee.jpg").read_bytes())
        page.set_input_files("#file", [coffee, _file("a.jpg", b"no picture")])
        expect(page.locator("#status")).to_have_text("2 pictures: 1 answer, 1 error.")
    expect(page.locator("#status")).not_to_have_text(re.compile("Asking|Connecting"))
    page.evaluate("[...document.querySelectorAll('main details')].slice(0, 6).forEach((fold) => { fold.open = true; })")
    for width in (360, 390, 1280, 1920):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, width
        if width in {390, 1280}:
            page.emulate_media(color_scheme="light")
            assert find_barriers(page) == [], width
            page.emulate_media(color_scheme="dark")
            assert find_barriers(page, "color-contrast") == [], width


def test_the_page_of_pictures_works_by_keyboard_alone(page: Page) -> None:
    page.locator("#signature").focus()
    page.keyboard.press("Tab")
    expect(page.locator("#file")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("1 picture: 1 answer.")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Where the time went":
            break
    page.keyboard.press("Enter")
    expect(page.locator(".waterfall")).to_be_visible()
