"""What `loadtest.poison` counts, against a server of a hundred lines."""

from __future__ import annotations

import asyncio
from argparse import Namespace

import pytest

from loadtest.poison import FORMS, Tally, cut_short, send
from loadtest.traffic.answers import Expectations, expect
from loadtest.traffic.connections import NEVER_SENT, HttpResponse
from loadtest.traffic.pictures import json_body, load
from tests.unit.loadtest.pictureserver import PictureServer, serving

DIGITS = load("digits")


def counted(server: PictureServer, form: str, expected: Expectations) -> Tally:
    options = Namespace(pictures="digits", requests=200, connections=4, every=10)
    return asyncio.run(send(server.server_port, form, options, expected))


@pytest.mark.parametrize("form", FORMS)
def test_every_request_is_counted_once_as_what_it_was_and_got(form: str) -> None:
    with serving(PictureServer()) as server:
        tally = counted(server, form, expect(server.url, DIGITS))
    assert tally.counts == {"intact": 180, "right": 180, "truncated": 20, "4xx, named": 20}
    assert tally.is_clean
    assert not tally.kinds


@pytest.mark.parametrize(("is_full", "kind"), [(False, "wrong"), (True, "failed")])
def test_a_wrong_answer_and_a_refusal_are_told_apart(is_full: bool, kind: str) -> None:
    with serving(PictureServer(right_answers=len(DIGITS) + 100, is_full=is_full)) as server:
        tally = counted(server, "JSON", expect(server.url, DIGITS))
    assert tally.counts == {"intact": 180, "right": 100, kind: 80, "truncated": 20, "4xx, named": 20}
    assert not tally.is_clean
    assert tally.kinds == ({"429 full": 80} if is_full else {})


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, "images[0]: cut short", "4xx, named"),
        (400, "a picture is cut short", "4xx, not named"),
        (500, "images[0]: cut short", "other"),
        (200, "", "other"),
    ],
)
def test_a_truncated_picture_must_be_refused_by_its_index(status: int, text: str, kind: str) -> None:
    tally = Tally(Expectations({}))
    tally.truncated(HttpResponse(status, b"", b'{"error": "%s"}' % text.encode(), 0.0))
    assert tally.counts == {"truncated": 1, kind: 1}
    assert tally.is_clean is (kind == "4xx, named")


def test_a_broken_connection_is_a_lost_answer() -> None:
    tally = Tally(Expectations({}))
    tally.intact(json_body(DIGITS[:1]), NEVER_SENT)
    assert tally.counts == {"intact": 1, "lost": 1}


def test_no_two_truncated_pictures_are_the_same_and_none_has_its_end() -> None:
    made = {cut_short(DIGITS[0], serial).data for serial in range(100)}
    assert len(made) == 100
    assert all(data.startswith(b"\xff\xd8\xff\xfe") and not data.endswith(b"\xff\xd9") for data in made)
