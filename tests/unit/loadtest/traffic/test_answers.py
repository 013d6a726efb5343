"""What counts as a right answer, and what Server-Timing says."""

import pytest

from loadtest.traffic.answers import Expectations, NoAnswer, ServerTiming, error_text, expect, parse_timing, predictions
from loadtest.traffic.pictures import cycle, json_body, load
from tests.unit.loadtest.pictureserver import PictureServer, serving


def test_predictions_are_read_wherever_predict_stands() -> None:
    assert predictions(b'{"a": [9], "predict": [3, -1,22], "z": 0}') == (3, -1, 22)
    assert predictions(b'{"predict":[]}') == ()


@pytest.mark.parametrize("body", [b"", b"{}", b'{"predict": 3}', b'{"predict": [0.5]}', b'{"predict": [[1]]}'])
def test_an_answer_without_a_list_of_whole_numbers_has_no_predictions(body: bytes) -> None:
    assert predictions(body) is None


def test_an_answer_agrees_only_with_its_own_pictures_in_their_own_order() -> None:
    request = json_body(cycle(load("photos"), start=0, rows=3))
    known = Expectations({"astronaut": 1, "chelsea": 2, "coffee": 3})
    assert known.agrees(request, b'{"predict":[1,2,3]}')
    assert not known.agrees(request, b'{"predict":[1,3,2]}')
    assert not known.agrees(request, b'{"predict":[1,2]}')
    assert not known.agrees(request, b'{"error":"no"}')


def test_expectations_that_are_all_the_same_tell_nothing_apart() -> None:
    assert not Expectations({"a": 7, "b": 7}).tells_apart
    assert Expectations({"a": 7, "b": 8}).tells_apart


def test_expectations_come_from_asking_for_each_picture_alone() -> None:
    with serving(PictureServer()) as server:
        known = expect(server.url, load("digits"))
        assert server.answered == len(known.table) == 10
    assert known.tells_apart


def test_a_server_that_refuses_leaves_nothing_to_expect() -> None:
    with serving(PictureServer(right_answers=2, is_full=True)) as server, pytest.raises(NoAnswer, match=r"429.*full"):
        expect(server.url, load("digits"))


def test_a_server_that_is_not_there_leaves_nothing_to_expect() -> None:
    server = PictureServer()
    server.server_close()
    with pytest.raises(NoAnswer, match="ConnectionRefusedError"):
        expect(server.url, load("digits"))


def test_server_timing_is_read_by_name_in_any_order() -> None:
    header = 'execute;dur=3.4, collate;dur=0.2, batch;desc="8", queue; dur=1.25 ;desc=waited, total;dur=9'
    assert parse_timing(header) == ServerTiming(1.25, 3.4, 8)


@pytest.mark.parametrize("header", [None, "", "queue", "queue;dur", "queue;dur=x, execute;desc=1", ";;,,=,"])
def test_server_timing_that_says_nothing_is_none(header: str | None) -> None:
    assert parse_timing(header) == ServerTiming()


def test_an_error_is_its_text_or_the_body_and_never_long() -> None:
    assert error_text(b'{"error": "images[0]: bad"}') == "images[0]: bad"
    assert error_text(b"<html>") == "b'<html>'"
    assert len(error_text(b'{"error": "' + b"x" * 5000 + b'"}')) == 200
