"""The model config file, in both of its forms, and the file of gRPC's TLS."""

from __future__ import annotations

import json
import ssl
import sys
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.service.config.model_config import BadSettingsError, ModelEntry, entries_of, read_model_config
from darkroom.service.config.protobuf import parse_text
from darkroom.service.config.settings import Settings
from darkroom.service.config.tls import grpc_context_of
from tests.serving import certificate

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENTED = """
# models
model_config_list: {
  config: {
    name: 'my_first_model', base_path: '/tmp/my_first_model/', model_platform: 'tensorflow'
    model_version_policy { specific { versions: 42 versions: 43 } }
    version_labels { key: 'stable' value: 42 }
    version_labels { key: 'canary' value: 43 }
  }
  config { name: "b" base_path: "/tmp/b" model_type: TENSORFLOW model_version_policy { latest { num_versions: 2 } } }
  config { name: "c" base_path: "/tmp/c" model_version_policy { all {} } }
  config { name: "d" base_path: "/tmp/d" model_version_policy { latest {} } }
}
"""


def told(tmp_path: Path, text: str) -> str:
    path = tmp_path / "models.config"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadSettingsError) as caught:
        read_model_config(path)
    return str(caught.value)


def test_tensorflow_servings_text_and_the_json_form_name_the_same_models(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    path.write_text(DOCUMENTED)
    models = read_model_config(path)
    assert [model.model_version_policy for model in models] == ["specific:42,43", "latest:2", "all", "latest:1"]
    assert models[0].version_labels == {"stable": 42, "canary": 43}
    listed = [json.loads(model.model_dump_json(exclude_defaults=True)) for model in models]
    for mark in ("", "\ufeff"):
        path.write_text(f"{mark}\n{json.dumps({'model_config_list': listed})}", encoding="utf-8")
        assert read_model_config(path) == models


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("model_config_list {}", "is empty"),
        ("[1]", "line 1: "),
        ("model_config_list { config { name: 'a' platform: 'x' } }", "no field 'platform'; is model_platform meant?"),
        (
            "model_config_list {\n config {\n base_pth: 'x' } }",
            "line 3: ModelConfig has no field 'base_pth'; is base_path",
        ),
        (
            "model_config_list { config { base_path: 'x' } config { name: 'b' } }",
            "model 2 ('b'): base_path: Field required",
        ),
        *(
            (f"model_config_list {{ config {{ name: 'a' base_path: '{address}' }} }}", f"base_path: {words}")
            for address, words in (
                ("hdfs://b/x", "must be a folder of this machine, or an address with s3://, gs://, az:// or https://"),
                ("s3:///x", "names no bucket"),
                ("https:///x.tar.gz", "names no host"),
                ("https://host/model", "must end with .tar.gz, .tgz or .tar: a web server lists no folders"),
                ("https://host/model.tar.gz?signature=secret", "must have no ? and no #"),
                ("https://me:secret@host/model.tar.gz", "must have no credentials"),
            )
        ),
        (
            "model_config_list { config { name: 'a' base_path: 'x' model_platform: 'pytorch' } }",
            "'pytorch' can't be served",
        ),
        ("model_config_list { config { name: 'a' base_path: 'x' model_type: OTHER } }", "'OTHER' can't be served"),
        (
            "model_config_list { config { name: 'a' base_path: 'x' model_version_policy { specific {} } } }",
            "specific:N,M",
        ),
        ("custom_model_config { type_url: 'x' }", "custom_model_config can't be served"),
        (
            '{"model_config_list": [{"name": "a", "base_path": "x", "model_platform": "tensorflow"}]}',
            "is 'platform' meant?",
        ),
        (
            '{"model_config_list": [{"name": "a", "base_path": "x", "lables": {}}]}',
            "model 1 ('a'): there is no key 'lables'",
        ),
        ('{"model_config_list": {"a": "b"}}', "is no list of models"),
        ('{"models": []}', "no key 'models', only 'model_config_list'"),
        ("model_config_list { config { name: '\\377' } }", "line 1"),
    ],
)
def test_what_can_not_be_served_is_told_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    said = told(tmp_path, text)
    assert words in said
    assert "secret" not in said


def test_what_has_no_effect_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "models.config"
    path.write_text("model_config_list { config { name: 'a' base_path: 'x' logging_config { sampling_config {} } } }")
    assert read_model_config(path) == (ModelEntry.model_validate({"name": "a", "base_path": "x"}),)
    assert "logging_config has no effect" in caplog.text


def test_an_address_needs_the_package_that_reads_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    said = told(tmp_path, "model_config_list { config { name: 'a' base_path: 's3://bucket/a' } }")
    assert "base_path: needs the package obstore: pip install 'darkroom[stores]'" in said


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
VERSIONS = st.integers(0, (1 << 63) - 1)
POLICIES = st.one_of(
    st.builds(dict),
    st.builds(lambda: {"all": {}}),
    st.builds(lambda count: {"latest": {"num_versions": count}}, st.integers(1, 9)),
    st.builds(lambda numbers: {"specific": {"versions": numbers}}, st.lists(VERSIONS, min_size=1, max_size=3)),
)


@settings(deadline=None)  # on a busy machine a call may take any time
@given(
    st.lists(st.tuples(NAMES, POLICIES, st.dictionaries(NAMES, VERSIONS, max_size=3)), unique_by=lambda each: each[0])
)
def test_every_list_of_models_comes_back_from_its_text(listed: list[tuple[str, Any, dict[str, int]]]) -> None:
    made = parse_text("tensorflow.serving.ModelServerConfig", "model_config_list {}")
    for name, policy, labels in listed:
        made.model_config_list.config.add(
            name=name, base_path=f"/{name}", model_version_policy=policy, version_labels=labels
        )
    again = parse_text("tensorflow.serving.ModelServerConfig", text_format.MessageToString(made, as_utf8=True))
    assert again == made
    entries = entries_of(again)
    assert [(entry.name, entry.version_labels) for entry in entries] == [(name, labels) for name, _, labels in listed]


@given(st.text())
def test_any_text_is_a_message_or_is_refused_in_words(text: str) -> None:
    for name in ("ModelServerConfig", "BatchingParameters", "SSLConfig"):
        try:
            parse_text(f"tensorflow.serving.{name}", text)
        except ValueError as err:
            assert 0 < len(str(err)) < 600  # noqa: PT017 - both ends are right


def test_grpcs_tls_comes_from_one_file_whose_secrets_are_not_told(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path)
    path = tmp_path / "ssl.config"
    quoted = {name: file.read_text().replace("\n", "\\n") for name, file in (("cert", pem), ("key", key))}
    text = f"server_key: '{quoted['key']}'\nserver_cert: '{quoted['cert']}'\n"
    path.write_text(text)
    assert grpc_context_of(path).verify_mode is ssl.CERT_NONE
    path.write_text(f"{text}custom_ca: '{quoted['cert']}'\nclient_verify: true")
    assert grpc_context_of(path).verify_mode is ssl.CERT_REQUIRED
    for wrong, words in (
        (f"{text}client_verify: true", "needs custom_ca"),
        (f"server_keys: '{quoted['key']}'", "is server_key meant?"),
        (f"server_key: {quoted['key']}", "line 1: is no protobuf text"),
        (f"server_key: '{quoted['key']}'", "are no key and certificate"),
        (f"{text}client_verify: true custom_ca: 'x'", "custom_ca is no certificate"),
    ):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="grpc_ssl_config_file") as caught:
            Settings(grpc_ssl_config_file=path)
        assert words in str(caught.value)
        assert quoted["key"][40:80] not in str(caught.value)
