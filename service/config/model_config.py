"""The model config file of Simple TensorFlow Serving (STS), and the error for wrong settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from darkroom.models.saved_model.front.preprocess import Preprocess
from darkroom.models.saved_model.output_kinds import read_said
from darkroom.models.versions.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Sequence


class BadSettingsError(ValueError):
    """Wrong settings; `problems` lists every problem, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def _split_numbers(value: object) -> object:
    """A comma-separated string as a list; anything else unchanged, for pydantic to check."""
    return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def parse_json(value: object) -> object:
    """A JSON string as its value. For other text it raises ValueError, which pydantic reports with the field."""
    try:
        return json.loads(value or "{}") if isinstance(value, str) else value
    except RecursionError as err:
        raise ValueError("is nested too deep") from err


def _check_policy(text: str) -> str:
    """The text unchanged, if it is a version policy; else it raises ValueError."""
    Policy.parse(text)
    return text


def _check_pictures(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """What is said of a model's pictures unchanged, if it can be meant; else it raises ValueError."""
    if value is not None:
        Preprocess.of(value)
    return value


def _check_outputs(value: dict[str, Any]) -> dict[str, Any]:
    """What is said of a model's outputs unchanged, if it can be meant; else it raises ValueError."""
    read_said(value)
    return value


def _lower(value: object) -> object:
    """A word in lower case, since STS accepted both."""
    return value.lower() if isinstance(value, str) else value


LogLevel = Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)]
Numbers = Annotated[tuple[int, ...], BeforeValidator(_split_numbers)]
Paths = Annotated[tuple[str, ...], BeforeValidator(_split_numbers)]
JsonObject = Annotated[dict[str, Any], BeforeValidator(parse_json)]
Labels = Annotated[dict[str, int], BeforeValidator(parse_json)]
Pictures = Annotated[JsonObject | None, AfterValidator(_check_pictures)]
Outputs = Annotated[JsonObject, AfterValidator(_check_outputs)]
VersionPolicy = Annotated[str, AfterValidator(_check_policy)]


class ModelEntry(BaseModel):
    """One model of `--model_config_file`, under the keys of STS. Unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str = Field(min_length=1)
    base_path: Path
    platform: str = "tensorflow"
    custom_op_paths: Paths = ()
    session_config: JsonObject = {}
    model_version_policy: VersionPolicy | None = (
        None  # None: the server's policy. STS does not have this key, nor the next three
    )
    version_labels: Labels = {}
    pictures: Pictures = None  # how pictures become the input of a model that takes tensors
    outputs: Outputs = {}  # what its outputs are, and the form in which they are answered


def read_model_config(path: Path) -> tuple[ModelEntry, ...]:
    """The models of an STS config file `{"model_config_list": [{"name", "base_path", …}]}`.

    Raises:
        BadSettingsError: the file can't be read or has the wrong form, or a model can't be served.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["model_config_list"]
        models = tuple(ModelEntry.model_validate(entry) for entry in entries)
    except ValidationError as err:
        raise BadSettingsError([f"model_config_file: {line}" for line in explain(err)]) from err
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as err:
        raise BadSettingsError([f"model_config_file: {path}: {type(err).__name__}: {err}"]) from err
    names = [model.name for model in models]
    problems = [
        f"model_config_file: two models are called {name!r}"
        for name in sorted({n for n in names if names.count(n) > 1})
    ]
    problems += [
        f"model_config_file: {m.name}: platform {m.platform!r} can't be served, only 'tensorflow'"
        for m in models
        if m.platform != "tensorflow"
    ]
    problems += [] if models else ["model_config_file: model_config_list is empty"]
    if problems:
        raise BadSettingsError(problems)
    return models


def explain(err: ValidationError) -> list[str]:
    """One line per problem, with the names of the flags. It never contains the value of a secret."""
    lines = []
    for problem in err.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        given = f" (given {str(problem['input'])[:80]!r})" if where and "password" not in where else ""
        lines += [f"{where}: {message}{given}"] if where else message.split("; ")
    return lines
