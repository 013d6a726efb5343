"""Triton's config.pbtxt: what becomes of each field, and the table that says it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.service.config.model_config import BadSettingsError
from darkroom.service.config.triton import (
    FIELDS,
    ModelConfig,
    config_of,
    entry_of,
    parse_config,
    read_entry,
    used_fields,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from darkroom.service.config.repository import RepositoryEntry

PAGE = Path(__file__).parents[4] / "docs" / "from_triton.md"
FOLDER = Path("/srv/models/cats")


def entry(text: str) -> RepositoryEntry:
    return entry_of(FOLDER, parse_config(text.encode()))


def refusals(text: str) -> list[str]:
    with pytest.raises(BadSettingsError) as caught:
        entry(text)
    return list(caught.value.problems)


def test_triton_s_documented_example_becomes_the_settings_of_a_model() -> None:
    made = entry("""
        name: "cats" platform: "tensorflow_savedmodel" max_batch_size: 16
        input [ { name: "images" data_type: TYPE_FP32 format: FORMAT_NHWC dims: [ 224, 224, 3 ] } ]
        output [ { name: "scores" data_type: TYPE_FP32 dims: [ 1000 ] label_filename: "labels.txt" } ]
        instance_group [ { count: 2 kind: KIND_GPU gpus: [ 1, 0 ] } ]
        dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 preserve_ordering: true }
        version_policy: { specific: { versions: [ 1, 3 ] } }
        parameters: { key: "TF_NUM_INTRA_THREADS" value: { string_value: "4" } }
    """)
    assert (made.name, made.base_path, made.model_version_policy) == ("cats", FOLDER, "specific:1,3")
    assert made.overrides == {
        "max_batch_images": 8,
        "batch_linger_ms": 0.1,
        "max_inflight_batches": 2,
        "device": "gpu:0,1",
    }
    assert [line.partition(":")[0] for line in made.idle] == [
        "input.format",
        "dynamic_batching.preserve_ordering",
        "parameters.TF_NUM_INTRA_THREADS",
    ]
    assert config_of(made).output[0].label_filename == "labels.txt"


@pytest.mark.parametrize(
    ("text", "policy", "overrides"),
    [
        ("", "latest:1", {}),
        ("version_policy: { all { }}", "all", {}),
        ("version_policy: { latest: { num_versions: 2 }}", "latest:2", {}),
        ("max_batch_size: 4", "latest:1", {"max_batch_images": 4}),
        ("backend: 'tensorflow' dynamic_batching { }", "latest:1", {}),
        ("instance_group [ { kind: KIND_CPU } ]", "latest:1", {"device": "cpu"}),
        ("instance_group [ { count: 2 }, { count: 1 } ]", "latest:1", {"max_inflight_batches": 3}),
        ("instance_group [ { count: 3 kind: KIND_GPU } ]", "latest:1", {"max_inflight_batches": 3, "device": "gpu"}),
    ],
)
def test_what_is_left_out_is_triton_s_default_or_the_server_s(
    text: str, policy: str, overrides: dict[str, object]
) -> None:
    made = entry(text)
    assert (made.model_version_policy, made.overrides) == (policy, overrides)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: 'dogs'", "name: is 'dogs', and the folder is 'cats'"),
        ("platform: 'onnxruntime_onnx'", "no other framework is"),
        ("backend: 'python'", "backend: 'python' can't be served, only 'tensorflow'"),
        ("ensemble_scheduling { step [ { model_name: 'x' } ] }", "ensemble_scheduling is refused"),
        ("sequence_batching { }", "sequence_batching is refused"),
        ("model_transaction_policy { decoupled: true }", "model_transaction_policy.decoupled is refused"),
        ("input [ { name: 'x' dims: [1] reshape: { shape: [] } } ]", "input 'x': reshape"),
        ("input [ { name: 'x' allow_ragged_batch: true } ]", "input.allow_ragged_batch is refused"),
        ("instance_group [ { kind: KIND_CPU }, { kind: KIND_GPU } ]", "groups of different kinds"),
        ("instance_group [ { kind: KIND_CPU gpus: [ 0 ] } ]", "instance_group.gpus"),
        ("instance_group [ { count: 65 } ]", "must be 1 to 64"),
        ("instance_group [ { count: -1 } ]", "must be 1 to 64"),
        ("max_batch_size: 4 dynamic_batching { preferred_batch_size: [ 8 ] }", "at most max_batch_size, 4"),
        ("max_batch_size: -1", "max_batch_size: -1 is below 0"),
        ("default_model_filename: '../other'", "no name of a folder"),
        ("parameters { key: 'TF_SIGNATURE_DEF' value { string_value: 'x' } }", "TF_SIGNATURE_DEF is 'x'"),
        ("max_batch_sise: 4", "is max_batch_size meant?"),
        ("instance_group [ { kind: KIND_CPUU } ]", "line 1: there is no 'KIND_CPUU'; is KIND_CPU meant? There are: "),
        ("name: ", "line 1"),
    ],
)
def test_what_this_server_cannot_do_is_refused_in_words(text: str, words: str) -> None:
    assert [line for line in refusals(text) if words in line], refusals(text)


def test_every_problem_is_told_at_once() -> None:
    assert (
        len(refusals("name: 'dogs' platform: 'x' sequence_batching { } batch_input [ { kind: BATCH_ITEM_SHAPE } ]"))
        == 4
    )


def test_decoupled_false_and_a_reshape_to_the_same_shape_mean_nothing() -> None:
    assert entry("model_transaction_policy { decoupled: false }").idle == ()
    assert entry("input [ { name: 'x' dims: [2, 3] reshape: { shape: [2, 3] } } ]").idle == ()


def test_a_folder_without_the_file_has_the_server_s_settings(tmp_path: Path) -> None:
    made = read_entry(tmp_path)
    assert (made.name, made.model_version_policy, made.overrides, made.config) == (tmp_path.name, None, {}, None)


def paths(descriptor: Any, prefix: str = "") -> Iterator[str]:
    """Every field of a message that needs a row: its own, or one for each field of the message in it."""
    for field in descriptor.fields:
        path, inner = f"{prefix}{field.name}", field.message_type
        if path in FIELDS or inner is None:
            yield path
        elif inner.GetOptions().map_entry:
            yield from paths(inner.fields_by_name["value"].message_type, f"{path}.")
        elif inner.fields:
            yield from paths(inner, f"{path}.")
        else:
            yield path


def test_the_table_has_each_field_of_the_message_and_no_other() -> None:
    assert sorted(paths(ModelConfig.DESCRIPTOR)) == sorted(FIELDS)


def test_the_page_says_of_each_field_what_the_code_does() -> None:
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert {path: words for path, words in rows.items() if path in FIELDS} == FIELDS


@given(st.binary(max_size=200) | st.text(alphabet="name:{}[]\"' 0123456789_input\n", max_size=80).map(str.encode))
def test_any_text_is_an_entry_or_a_refusal(data: bytes) -> None:
    try:
        made = entry_of(FOLDER, parse_config(data))
    except BadSettingsError as err:
        assert all(err.problems)  # noqa: PT017 - either may come
    else:
        assert made.name == "cats"


@given(st.sets(st.sampled_from(["name", "platform", "max_batch_size", "input", "model_warmup", "dynamic_batching"])))
def test_only_fields_that_are_set_are_used(chosen: set[str]) -> None:
    config = ModelConfig()
    values: dict[str, dict[str, Any]] = {
        "name": {"name": "cats"},
        "platform": {"platform": "x"},
        "max_batch_size": {"max_batch_size": 3},
        "input": {"input": [{"name": "a"}, {"name": "b"}]},
        "model_warmup": {"model_warmup": [{"inputs": {"a": {"zero_data": True}}}]},
        "dynamic_batching": {"dynamic_batching": {"preferred_batch_size": [2]}},
    }
    for each in chosen:
        config.MergeFrom(ModelConfig(**values[each]))
    found = list(used_fields(config))
    assert len(found) == len(set(found))
    assert {path.partition(".")[0] for path in found} == chosen
