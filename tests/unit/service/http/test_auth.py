"""Credentials, without a server."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from darkroom.service.cli.main import main
from darkroom.service.config.model_config import BadSettingsError
from darkroom.service.config.settings import read_settings
from darkroom.service.config.tokens import Scope, new_token, read_tokens
from darkroom.service.http.auth import CHECK_PERIOD_S, Access, Auth

if TYPE_CHECKING:
    from pathlib import Path

PREDICT = frozenset({Scope.PREDICT})


def _basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_without_credentials_of_its_own_a_server_welcomes_everybody() -> None:
    auth = Auth()
    assert not auth.is_on
    assert auth.access(None, Scope.ADMIN) is Access.ALLOWED


def test_a_password_covers_every_scope_and_nothing_else_passes() -> None:
    auth = Auth(password=("u", "p:ü"))
    assert {auth.access(_basic("u:p:ü"), scope) for scope in Scope} == {Access.ALLOWED}
    wrong = [
        None,
        "",
        "Basic",
        "Basic %%",
        _basic("u:p"),
        _basic("u:p:ü").replace("Basic", "Digest"),
        "Bearer x",
        "\udcff",
    ]
    assert {auth.access(each, Scope.PREDICT) for each in wrong} == {Access.UNAUTHENTICATED}


def test_a_token_covers_its_scopes_and_is_nowhere_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    text, token = new_token("alice", frozenset({Scope.PREDICT, Scope.METRICS}))
    file.write_text(f"# who may ask\n\n{token.line()}  # until May\n", encoding="utf-8")
    assert text not in file.read_text(encoding="utf-8")
    auth = Auth(tokens_file=file)
    standings = [auth.access(f"Bearer {text}", scope) for scope in (Scope.PREDICT, Scope.METRICS, Scope.ADMIN)]
    assert standings == [Access.ALLOWED, Access.ALLOWED, Access.OUT_OF_SCOPE]
    assert auth.access(f"bearer  {text} ", Scope.PREDICT) is Access.ALLOWED
    for wrong in (
        None,
        "Bearer",
        "Bearer ",
        f"Bearer {text}x",
        f"Bearer {token.digest}",
        "Bearer \udcff",
        _basic("u:p"),
    ):
        assert auth.access(wrong, Scope.PREDICT) is Access.UNAUTHENTICATED


def test_a_changed_file_is_read_again_at_the_next_look_and_not_before(tmp_path: Path) -> None:
    now = [0.0]
    file = tmp_path / "tokens"
    first, old = new_token("a", PREDICT)
    second, new = new_token("bb", PREDICT)
    file.write_text(old.line(), encoding="utf-8")
    auth = Auth(tokens_file=file, clock=lambda: now[0])
    file.write_text(new.line(), encoding="utf-8")
    now[0] = CHECK_PERIOD_S * 0.99
    assert auth.access(f"Bearer {first}", Scope.PREDICT) is Access.ALLOWED
    now[0] = CHECK_PERIOD_S
    assert auth.access(f"Bearer {first}", Scope.PREDICT) is Access.UNAUTHENTICATED
    assert auth.access(f"Bearer {second}", Scope.PREDICT) is Access.ALLOWED


def test_a_file_that_breaks_or_goes_leaves_the_tokens_that_there_were(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    text, token = new_token("a", PREDICT)
    file.write_text(token.line(), encoding="utf-8")
    auth = Auth(tokens_file=file)
    file.write_text("nonsense", encoding="utf-8")
    auth.reload()
    assert auth.access(f"Bearer {text}", Scope.PREDICT) is Access.ALLOWED
    file.unlink()
    auth.reload()
    assert auth.access(f"Bearer {text}", Scope.PREDICT) is Access.ALLOWED
    file.write_text("", encoding="utf-8")
    auth.reload()
    assert auth.access(f"Bearer {text}", Scope.PREDICT) is Access.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("alice predict", ":2: expected NAME"),
        ("alice predict " + "0" * 63, ":2: expected NAME"),
        ("alice predict " + "A" * 64, ":2: expected NAME"),
        ("alice root " + "0" * 64, ":2: expected scopes out of predict, metrics, admin"),
        ("alice , " + "0" * 64, ":2: expected scopes"),
    ],
)
def test_a_line_that_is_no_token_stops_the_start_with_its_number(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# tokens\n{line}\n", encoding="utf-8")
    with pytest.raises(BadSettingsError, match="auth_tokens_file") as caught:
        read_settings({"auth_tokens_file": str(file)}, {})
    assert words in str(caught.value)


def test_the_command_prints_the_token_once_and_keeps_its_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tokens"
    assert main(["token", "alice", "--scopes=predict,admin", f"--file={file}"]) == 0
    assert main(["token", "bob", f"--file={file}"]) == 0
    alice, bob = capsys.readouterr().out.split()
    assert [(token.name, token.scopes) for token in read_tokens(file)] == [
        ("alice", frozenset({Scope.PREDICT, Scope.ADMIN})),
        ("bob", PREDICT),
    ]
    auth = Auth(tokens_file=file)
    assert auth.access(f"Bearer {alice}", Scope.ADMIN) is Access.ALLOWED
    assert auth.access(f"Bearer {bob}", Scope.ADMIN) is Access.OUT_OF_SCOPE
    assert main(["token", "carol"]) == 0
    assert capsys.readouterr().err.startswith("carol predict ")


@pytest.mark.parametrize("arguments", [["two words"], ["a#b"], ["a", "--scopes=root"], ["a", "--file=/nowhere/at/all"]])
def test_a_token_that_can_not_be_made_is_told_and_none_is_printed(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["token", *arguments]) == 2
    assert capsys.readouterr().out == ""
