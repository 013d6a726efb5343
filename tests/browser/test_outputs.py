"""Outputs of every kind in a real Chromium: drawn by what they are, in bounded space, and names that are HTML stay text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PATIENCE_MS
from tests.browser.zoo import HOSTILE, LONG, everything
from tests.serving import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Locator, Page

TALLEST_PIXELS = 2600  # of a page with one picture, whatever the output

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(*everything()) as server:
        yield server.url


@pytest.fixture
def show(url: str, visit: Callable[..., Page]) -> Callable[..., Page]:
    """The page of pictures for a model of the zoo, with the answers to samples."""

    def open_model(name: str, samples: tuple[str, ...] = ("coffee",), **query: str) -> Page:
        page = visit(
            f"{url}/image_inference?{urlencode({'model': name} | query)}", viewport={"width": 390, "height": 800}
        )
        for sample in samples:
            page.click(f"[data-sample='{sample}.jpg']")
            expect(page.locator(".picture-card .told").first).to_contain_text("in a batch of")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("document.documentElement.scrollHeight") < TALLEST_PIXELS * max(1, len(samples))
        return page

    return open_model


def _output(page: Page, name: str) -> Locator:
    return page.locator(".picture-card").first.get_by_label(name, exact=True)


def _painted(layer: Locator, x: float, y: float) -> bool:
    """Whether a layer is not transparent at a place, in shares of its sides."""
    script = "(c, [x, y]) => c.getContext('2d').getImageData(x * c.width, y * c.height, 1, 1).data[3] > 0"
    return bool(layer.evaluate(script, [x, y]))


def test_several_outputs_are_drawn_by_what_they_are_scores_first(show: Callable[..., Page]) -> None:
    page = show("default", ("coffee", "rocket"))
    card = page.locator(".picture-card").first
    expect(card.locator("h4")).to_have_text(["probability", "a_vector", "predict"])
    expect(_output(page, "probability").locator("li").first).to_contain_text("%")
    expect(_output(page, "a_vector")).to_contain_text("32 numbers, length")
    expect(_output(page, "a_vector")).to_contain_text(re.compile(r"pictures before it:\s*coffee.jpg\s*-?0\.\d+"))
    expect(_output(page, "predict")).to_contain_text(re.compile(r"\d, \w+"))


def test_logits_are_no_percentages_and_nan_is_said(show: Callable[..., Page]) -> None:
    page = show("logits")
    expect(_output(page, "logits").locator("li").first).to_contain_text(re.compile(r"espresso\s*25\.\d+ \(softmax \d"))
    expect(_output(page, "logits")).to_contain_text("These are logits, no probabilities.")
    expect(_output(page, "not_finite").locator("li").last).to_contain_text("NaN")
    expect(_output(page, "not_finite")).to_contain_text("2 of 5 scores are NaN or infinite.")
    assert "%" not in _output(page, "not_finite").inner_text()


def test_boxes_are_drawn_over_the_picture_and_the_slider_hides_them(show: Callable[..., Page]) -> None:
    page = show("detector")
    found = page.locator(".objects li")
    expect(found).to_have_count(2)
    expect(found.first).to_contain_text("thing 0")
    assert _painted(page.locator(".layer"), 0.2, 0.35), "the left side of the first box"
    assert not _painted(page.locator(".layer"), 0.1, 0.35)
    assert _painted(page.locator(".layer"), 0.21, 0.045), "its name, as large on a narrow screen as on a wide one"
    page.get_by_role("slider").fill("0.895")
    expect(found).to_have_count(1)
    expect(page.locator(".layer")).to_have_count(1)


def test_a_mask_is_a_layer_over_the_picture_with_a_legend(show: Callable[..., Page]) -> None:
    page = show("segmenter")
    expect(page.locator(".objects li")).to_have_text([re.compile(r"class of 0\s*6\d\.\d %"), re.compile("class of 3")])
    assert _painted(page.locator(".layer"), 0.5, 0.5)
    assert not _painted(page.locator(".layer"), 0.02, 0.02)


def test_a_picture_is_a_picture_and_a_huge_array_one_line(show: Callable[..., Page]) -> None:
    page = show("painter")
    expect(_output(page, "picture").get_by_role("img")).to_be_visible()
    expect(_output(page, "picture")).to_contain_text(re.compile("64 . 64"))
    expect(_output(page, "x")).to_contain_text("float32 [650, 650]: 422,500 values, 0 to 0")


def test_the_forms_that_the_server_offers_are_asked_for_and_drawn(show: Callable[..., Page]) -> None:
    """By the metadata of outputs: objects in pixels, masks and pictures as PNG, laid over as the front fitted them."""
    page = show("segmenter")
    drawn = page.evaluate(
        """async () => {
          const { drawOutputs } = await import("/web/outputs.js");
          const { queryOf } = await import("/web/ask.js");
          const { PictureView } = await import("/web/picture.js");
          const png = (width, height, grey) => {
            const canvas = Object.assign(document.createElement("canvas"), { width, height });
            canvas.getContext("2d").fillStyle = `rgb(${grey}, ${grey}, ${grey})`;
            canvas.getContext("2d").fillRect(0, 0, width, height);
            return { b64: canvas.toDataURL("image/png").split(",")[1] };
          };
          const kinds = {
            found: { kind: "boxes", as: ["numbers", "base64", "pixels", "objects"], scores: null },
            mask: { kind: "mask", as: ["numbers", "base64", "png", "colours"], classes: 21, labels: true },
            out: { kind: "image", as: ["numbers", "base64", "png"], range: [0, 1] },
            odds: { kind: "scores", as: ["numbers", "softmax"], values: "sigmoid", labels: true },
          };
          const outputs = Object.keys(kinds).map((name) => ({ name, dtype: 1, shape: [-1, 2] }));
          const signature = { inputs: [], outputs, kinds, front: { size: [64, 64], fit: "pad", orient: false } };
          const target = { model: { model_name: "m", model_version_list: ["1"] }, version: "", name: "serving_default", signature };
          const view = new PictureView("p");
          await view.show(await (await fetch("/web/coffee.jpg")).blob(), { turn: 1 }, false);
          const body = {
            found: [[{ left: 10, top: 20, right: 110, bottom: 220, score: 0.75, class: 1, label: "a cup" }]],
            mask: [png(64, 64, 3)], out: [png(8, 8, 200)], odds: [[0.25, 0.75]],
          };
          const parts = await drawOutputs(body, { target, labels: ["no", "yes"], view, name: "p", memory: new Map() });
          const text = parts.map((part) => part.textContent).join(" | ");
          const count = () => view.element.querySelectorAll(".layer").length;
          const layers = [count()];
          const slider = parts.map((part) => part.querySelector("input[type=range]")).find(Boolean);
          slider.value = "0.9";
          slider.dispatchEvent(new Event("input"));
          layers.push(count());
          return { as: JSON.parse(queryOf(target).get("as")), text, layers };
        }"""
    )
    assert drawn["as"] == {"found": "objects", "mask": "png", "out": "png"}
    for text in ("a cup100 \u00d7 200 at 10, 2075.0 %", "class 3100.0 %", "yes75.0 %"):
        assert text in drawn["text"]
    assert drawn["layers"] == [2, 2], "the slider of the boxes takes no mask away"


def test_another_model_or_version_or_signature_clears_the_answer_and_asks_again(show: Callable[..., Page]) -> None:
    page = show("aged")
    expect(_output(page, "logits")).to_be_visible()
    page.select_option("#version", "1")
    expect(_output(page, "probability")).to_be_visible()
    expect(_output(page, "logits")).to_have_count(0)
    assert page.url.endswith("?model=aged&version=1")
    page.select_option("#model", "default")
    page.select_option("#signature", "embed")
    expect(_output(page, "features")).to_contain_text("8 numbers")
    expect(_output(page, "probability")).to_have_count(0)
    page.reload()
    expect(page.locator("#signature")).to_have_value("embed")


def test_names_that_are_html_stay_text_and_long_ones_break(
    show: Callable[..., Page], url: str, visit: Callable[..., Page]
) -> None:
    page = show(HOSTILE)
    expect(_output(page, HOSTILE).or_(page.locator(".scores").first).first).to_be_visible()
    expect(page.locator(".scores")).to_contain_text(HOSTILE)
    assert page.locator("img[src=x]").count() == 0
    page.get_by_text("The same from a program").click()
    expect(page.get_by_label("The request in curl")).to_contain_text("model_name=%3Cimg+src%3Dx")
    show(LONG)
    for path in ("", "live", "json_inference", "generate_clients"):
        for name in (HOSTILE, LONG):
            page = visit(f"{url}/{path}?{urlencode({'model': name})}", viewport={"width": 390, "height": 800})
            expect(page.locator("body")).to_contain_text(name)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, (path, name)


def test_a_signature_of_numbers_or_text_gets_a_form(show: Callable[..., Page]) -> None:
    page = show("table", ())
    expect(page.locator("#pictures")).to_be_hidden()
    page.get_by_label(re.compile("features")).fill("[1, 2, 3, 4]")
    page.get_by_label(re.compile("pixels")).fill("0.5")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#form-answer")).to_contain_text("1,546")
    page.get_by_label(re.compile("features")).fill("[1, 2")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#form-answer")).to_contain_text("features: expected JSON of float32")
    page.select_option("#model", "reader")
    page.get_by_label(re.compile("words")).fill("many ")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#form-answer")).to_contain_text("MANY")
    expect(page.locator("#form-answer")).to_contain_text("and 8,001 characters more")


def test_the_first_page_offers_a_form_where_no_picture_can_be_tried(url: str, visit: Callable[..., Page]) -> None:
    page = visit(url)
    table = page.locator(".model", has=page.get_by_role("heading", name="table", exact=True))
    expect(table.get_by_text("Fill in a form")).to_have_attribute("href", "/image_inference?model=table")
    expect(table.get_by_text("Try a picture")).to_have_count(0)
    assert page.evaluate("document.querySelectorAll('.model').length") == 10
