"""What TensorFlow Serving's flags and files become."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.service.cli import doc_tables
from darkroom.service.cli.model_server import FLAGS, main, plan_of
from darkroom.service.config.model_config import BadSettingsError
from darkroom.service.config.settings import Settings, read_settings

DOCS = Path(__file__).parents[4] / "docs"


# Every flag of tensorflow_serving/model_servers/main.cc, release 2.20.0, in its order.
RELEASE = """
port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms rest_api_enable_cors_support
enable_batching allow_version_labels_for_unavailable_models batching_parameters_file enable_per_model_batching_parameters
model_config_file model_config_file_poll_wait_seconds model_name model_base_path num_load_threads num_unload_threads
max_num_load_retries load_retry_interval_micros file_system_poll_wait_seconds flush_filesystem_caches
tensorflow_session_parallelism tensorflow_session_config_file tensorflow_intra_op_parallelism
tensorflow_inter_op_parallelism use_alts_credentials ssl_config_file platform_config_file
per_process_gpu_memory_fraction saved_model_tags grpc_channel_arguments grpc_max_threads enable_model_warmup
num_request_iterations_for_warmup version monitoring_config_file remove_unused_fields_from_bundle_metagraph
prefer_tflite_model num_tflite_pools num_tflite_interpreters_per_pool enable_signature_method_name_check
xla_cpu_compilation_enabled xla_gpu_compilation_enabled enable_profiler thread_pool_factory_config_file mixed_precision
skip_initialize_tpu enable_grpc_healthcheck_service enable_serialization_as_tensor_content
""".split()  # noqa: SIM905 - a line has several
DOCUMENTED = """
max_batch_size { value: 128 }
batch_timeout_micros { value: 0 }
max_enqueued_batches { value: 1000000 }
num_batch_threads { value: 8 }
"""
SPLITTING = """
max_batch_size { value: 64 } max_execution_batch_size { value: 16 } enable_large_batch_splitting { value: true }
max_enqueued_batches { value: 0 } pad_variable_length_inputs: true thread_pool_name { value: 'a' }
"""
HALF = {"model_base_path": "/models/half"}
DEFAULTS = {"port": "8501", "grpc_port": "8500", "model_name": "default", "model_version_policy": "latest"}


def became(flags: dict[str, str], **environment: str) -> dict[str, str]:
    """The settings that flags become, without those that every start has."""
    settings = plan_of(HALF | flags, environment).settings
    assert settings.pop("model_base_path") == HALF["model_base_path"]
    return {name: value for name, value in settings.items() if DEFAULTS.get(name) != value}


def refusal(flags: dict[str, str], **environment: str) -> str:
    with pytest.raises(BadSettingsError) as caught:
        plan_of(flags, environment)
    return str(caught.value)


def test_every_flag_of_the_release_is_taken_or_its_words_say_why_not() -> None:
    assert list(FLAGS) == RELEASE
    for name, flag in FLAGS.items():
        value = {int: "3", float: "0.5", bool: "true", str: "x"}[flag.kind]
        is_unused, is_refused = flag.words.startswith("no effect: "), flag.words.startswith("refused: ")
        if is_refused:
            assert f"--{name}: {flag.words.removeprefix('refused: ')}" in refusal(HALF | {name: value})
            assert became({name: {bool: "false", str: ""}[flag.kind]}) == {}
        elif is_unused:
            plan = plan_of(HALF | {name: value}, {})
            assert plan.settings == DEFAULTS | HALF
            assert plan.notes == {name: f"{value} has no effect: {flag.words.removeprefix('no effect: ')}"}


def test_the_table_of_the_docs_is_that_of_the_code() -> None:
    page = (DOCS / "from_tensorflow_serving.md").read_text(encoding="utf-8")
    assert doc_tables.flags_table() in page, "run `make docs`"
    for setting in {
        word.strip("`").split("=")[0] for flag in FLAGS.values() for word in flag.words.split() if "`--" in word
    }:
        name = setting.strip("`,;:.").removeprefix("--").split("`")[0].split("=")[0]
        assert name in Settings.model_fields or name in FLAGS, name


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        ({"port": "9000", "rest_api_port": "9001"}, {"grpc_port": "9000", "port": "9001"}),
        ({"rest_api_timeout_in_ms": "500"}, {"request_timeout_ms": "500"}),
        ({"rest_api_enable_cors_support": "true"}, {"enable_cors": "true"}),
        ({"model_config_file_poll_wait_seconds": "60"}, {"model_config_poll_ms": "60000"}),
        ({"file_system_poll_wait_seconds": "5"}, {"reload_models": "true", "reload_interval_ms": "5000"}),
        ({"file_system_poll_wait_seconds": "0"}, {"reload_models": "false"}),
        ({"tensorflow_session_parallelism": "4"}, {"intra_op_threads": "4"}),
        ({"tensorflow_session_parallelism": "0"}, {}),
        (
            {"tensorflow_intra_op_parallelism": "2", "tensorflow_inter_op_parallelism": "3"},
            {"intra_op_threads": "2", "inter_op_threads": "3"},
        ),
        ({"per_process_gpu_memory_fraction": "0.5"}, {"session_config": '{"per_process_gpu_memory_fraction": 0.5}'}),
        ({"mixed_precision": "bfloat16"}, {"precision": "bf16"}),
        ({"saved_model_tags": "serve", "mixed_precision": ""}, {}),
        ({"enable_serialization_as_tensor_content": "1"}, {"grpc_tensor_content": "true"}),
        ({"model_name": "half"}, {"model_name": "half"}),
    ],
)
def test_a_flag_becomes_settings_that_can_be_served(flags: dict[str, str], settings: dict[str, str]) -> None:
    assert became(flags) == settings
    assert read_settings(plan_of(HALF | flags, {}).settings, {}).models


def test_grpc_is_off_without_its_port_and_rest_never_is() -> None:
    assert "grpc_port" not in plan_of(HALF | {"port": "0"}, {}).settings
    assert "health and the metrics" in refusal(HALF | {"rest_api_port": "0"})
    assert "--rest_api_port: must not be --port" in refusal(HALF | {"rest_api_port": "8500"})


def test_the_variables_of_the_image_name_the_model() -> None:
    assert plan_of({}, {"MODEL_NAME": "half"}).settings == DEFAULTS | {
        "model_name": "half",
        "model_base_path": "/models/half",
    }
    assert plan_of({}, {"MODEL_NAME": "a", "MODEL_BASE_PATH": "/m"}).settings["model_base_path"] == "/m/a"
    assert plan_of(HALF, {"MODEL_NAME": "a", "MODEL_BASE_PATH": "/m"}).settings["model_base_path"] == "/models/half"
    assert "MODEL_NAME" in refusal({})
    with_file = plan_of({"model_config_file": "/m/models.config"}, {"MODEL_NAME": "model"})
    assert "model_base_path" not in with_file.settings


def test_a_policy_in_the_environment_is_respected() -> None:
    assert "model_version_policy" not in plan_of(HALF, {"DARKROOM_MODEL_VERSION_POLICY": "all"}).settings


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        (
            DOCUMENTED,
            {"max_batch_images": "128", "max_queue_images": "128000000", "batch_linger_ms": "0"},
            "becomes --max_batch_images=128, --max_queue_images=128000000, --batch_linger_ms=0; num_batch_threads has no",
        ),
        (
            "allowed_batch_sizes: 2 allowed_batch_sizes: 8 batch_timeout_micros { value: 1500 }",
            {"max_batch_images": "8", "allowed_batch_sizes": "2,8", "batch_linger_ms": "1.5"},
            "batch_timeout_micros: without it",
        ),
        ("max_batch_size { value: 5000 }", {"max_batch_images": "5000", "max_queue_images": "5000"}, "becomes"),
        (
            SPLITTING,
            {"max_batch_images": "16", "max_queue_images": "64"},
            "always split; pad_variable_length_inputs has no effect",
        ),
        ("", {}, "becomes nothing"),
    ],
)
def test_batching_parameters_become_limits_and_the_log_says_which(
    tmp_path: Path, text: str, settings: dict[str, str], words: str
) -> None:
    path = tmp_path / "batching_parameters.txt"
    path.write_text(text)
    plan = plan_of(HALF | {"enable_batching": "true", "batching_parameters_file": str(path)}, {})
    assert {name: value for name, value in plan.settings.items() if name not in DEFAULTS | HALF} == settings
    assert words in plan.notes["batching_parameters_file"]
    assert read_settings(plan.settings, {}).max_batch_images == int(settings.get("max_batch_images", 32))


@pytest.mark.parametrize(
    ("flag", "text", "setting", "value"),
    [
        ("monitoring_config_file", 'prometheus_config { enable: true, path: "/m" }', "metrics_path", "/m"),
        ("monitoring_config_file", "prometheus_config { enable: true }", "metrics_path", None),
        ("tensorflow_session_config_file", "intra_op_parallelism_threads: 2", "intra_op_threads", "2"),
        (
            "tensorflow_session_config_file",
            "allow_soft_placement: true gpu_options { allow_growth: true }",
            "session_config",
            '{"allow_soft_placement": true, "allow_growth": true}',
        ),
    ],
)
def test_a_file_of_protobuf_text_becomes_a_setting(
    tmp_path: Path, flag: str, text: str, setting: str, value: str | None
) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    assert became({flag: str(path)}).get(setting) == value


@pytest.mark.parametrize(
    "flag", ["monitoring_config_file", "tensorflow_session_config_file", "batching_parameters_file"]
)
def test_a_file_that_is_wrong_is_told_with_its_line(tmp_path: Path, flag: str) -> None:
    path = tmp_path / "file"
    assert f"--{flag}: {path}: No such file" in refusal(HALF | {flag: str(path)})
    path.write_text("\nno_such_field: 1")
    told = refusal(HALF | {flag: str(path)})
    assert "line 2: " in told
    assert "has no field 'no_such_field'" in told


def test_all_problems_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--port=x", "--prt=1", "--use_alts_credentials", "--enable_batching=maybe", "--slo_mz=3"])
    told = capsys.readouterr().err
    assert status == 2
    for words in (
        "--port: expected a whole number (given 'x')",
        "there is no flag '--prt=1'; is --port meant?",
        "ALTS is not served",
        "--enable_batching: expected true or false",
        "is --slo_ms meant?",
        "no model is named",
    ):
        assert words in told


def test_what_no_setting_takes_is_told_with_the_flag_that_it_came_by(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["--model_base_path=fake", "--rest_api_timeout_in_ms=0", "--workers=0", "--model_base_path=hdfs://bucket"])
        == 2
    )
    told = capsys.readouterr().err
    assert "--rest_api_timeout_in_ms: request_timeout_ms: Input should be greater than 0" in told
    assert "  workers: " in told
    assert "--model_base_path: model_base_path: must be a folder of this machine" in told


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("TensorFlow ModelServer: ")
