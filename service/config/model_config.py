"""The model config file, in JSON (STS's form) and in protobuf text (TensorFlow Serving's), and the error for wrong settings."""

from __future__ import annotations

import json
import logging
import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from darkroom.models.saved_model.front.preprocess import Preprocess
from darkroom.models.saved_model.output_kinds import read_said
from darkroom.models.versions.policy import Policy
from darkroom.models.versions.stores.address import check_address, is_address
from darkroom.service.config.traffic import TrafficRule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_log = logging.getLogger("darkroom.service")
# Keys of TensorFlow Serving's form, by their name in the JSON form.
_OTHER_NAMES = {"model_platform": "platform", "model_base_path": "base_path", "model_name": "name"}


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


def _check_folder(value: object) -> object:
    """A path unchanged, unless it is an address of some storage; then it raises ValueError."""
    if isinstance(value, str) and is_address(value):
        raise ValueError("must be a folder of this machine; mount or copy the storage")
    return value


def _check_base_path(value: object) -> object:
    """An address of some storage, checked, as text; anything else as the path of a folder."""
    if isinstance(value, str):
        return check_address(value) if is_address(value) else Path(value)
    return value


def _checked(read: Callable[[Any], object]) -> AfterValidator:
    """Keeps a value as it is, if `read` can read it or it is None; `read` raises ValueError if it can't be meant."""

    def check(value: Any) -> Any:
        if value is not None:
            read(value)
        return value

    return AfterValidator(check)


def _lower(value: object) -> object:
    """A word in lower case, since STS accepted both."""
    return value.lower() if isinstance(value, str) else value


LogLevel = Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)]
Numbers = Annotated[tuple[int, ...], BeforeValidator(_split_numbers)]
Paths = Annotated[tuple[str, ...], BeforeValidator(_split_numbers)]
Load = Literal["eager", "lazy"]
JsonObject = Annotated[dict[str, Any], BeforeValidator(parse_json)]
Labels = Annotated[dict[str, int], BeforeValidator(parse_json)]
Pictures = Annotated[JsonObject | None, _checked(Preprocess.of)]
Folder = Annotated[Path, BeforeValidator(_check_folder)]
BasePath = Annotated[Path | str, BeforeValidator(_check_base_path)]  # a folder, or the address of a model in a store
Outputs = Annotated[JsonObject, _checked(read_said)]
Traffic = Annotated[JsonObject | None, _checked(TrafficRule.of)]
VersionPolicy = Annotated[str, _checked(Policy.parse)]


class ModelEntry(BaseModel):
    """One model of `--model_config_file`, under the keys of STS. Unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str = Field(min_length=1)
    base_path: BasePath
    platform: str = "tensorflow"
    custom_op_paths: Paths = ()
    session_config: JsonObject = {}
    model_version_policy: VersionPolicy | None = (
        None  # None: the server's policy. STS does not have this key, nor the next five
    )
    version_labels: Labels = {}
    pictures: Pictures = None  # how pictures become the input of a model that takes tensors
    outputs: Outputs = {}  # what its outputs are, and the form in which they are answered
    traffic: Traffic = None  # which versions answer requests that name none
    load: Load | None = None  # when it is loaded; None: as the server's


def read_model_config(path: Path) -> tuple[ModelEntry, ...]:
    """The models of a config file, in one of two forms; a file that begins with `{` is JSON.

    JSON, as STS has it: `{"model_config_list": [{"name", "base_path", …}]}`. Protobuf text, as TensorFlow Serving has it:
    `model_config_list { config { name: "…" base_path: "…" } }`.

    Raises:
        BadSettingsError: the file can't be read or has the wrong form, or a model can't be served.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("{"):
            models = _read_json(text)
        else:
            from darkroom.service.config.protobuf import parse_text  # noqa: PLC0415 - protobuf, only for this form

            models = entries_of(parse_text("tensorflow.serving.ModelServerConfig", text))
    except BadSettingsError as err:
        raise BadSettingsError([f"model_config_file: {path}: {line}" for line in err.problems]) from err
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as err:
        said = f"{type(err).__name__}: {err}"
        if isinstance(err, OSError) or type(err) is ValueError:  # the latter is ours, and says all
            said = getattr(err, "strerror", None) or str(err)
        raise BadSettingsError([f"model_config_file: {path}: {said}"]) from err
    if not models:
        raise BadSettingsError([f"model_config_file: {path}: model_config_list is empty"])
    return models


def entries_of(config: Any) -> tuple[ModelEntry, ...]:
    """The models of a `tensorflow.serving.ModelServerConfig`; none of an empty one.

    Raises:
        BadSettingsError: a model can't be served; lists every problem.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise BadSettingsError(["custom_model_config can't be served, only model_config_list"])
    fields = [_fields_of(model) for model in config.model_config_list.config]
    if logged := [each.name for each in config.model_config_list.config if each.HasField("logging_config")]:
        message = "logging_config has no effect: --access_log logs requests"
        _log.warning(message, extra={"fields": {"models": logged}})
    return check_entries(fields)


def check_entries(listed: Iterable[Any]) -> tuple[ModelEntry, ...]:
    """The models that are listed, by their keys.

    Raises:
        BadSettingsError: one can't be served, or two have one name; lists every problem.
    """
    models, problems = [], []
    for number, fields in enumerate(listed, 1):
        try:
            models.append(ModelEntry.model_validate(fields))
        except ValidationError as err:
            name = fields.get("name") if isinstance(fields, dict) else None
            where = f"model {number}" + (f" ({name[:80]!r})" if isinstance(name, str) and name else "")
            problems += [f"{where}: {line}" for line in explain(err)]
    names = [model.name for model in models]
    problems += [f"two models are called {name!r}" for name in sorted({n for n in names if names.count(n) > 1})]
    problems += [
        f"{m.name}: platform {m.platform!r} can't be served, only 'tensorflow'"
        for m in models
        if m.platform != "tensorflow"
    ]
    if problems:
        raise BadSettingsError(problems)
    return tuple(models)


def _read_json(text: str) -> tuple[ModelEntry, ...]:
    fields = json.loads(text)
    if others := [key for key in fields if key != "model_config_list"]:
        raise ValueError(f"there is no key {others[0][:80]!r}, only 'model_config_list'")
    if "model_config_list" not in fields:
        raise ValueError("there is no key 'model_config_list'")
    if not isinstance(listed := fields["model_config_list"], list):
        raise TypeError("model_config_list is no list of models")
    return check_entries(listed)


def _fields_of(model: Any) -> dict[str, Any]:
    """The keys of a ModelEntry, from a ModelConfig. A number or text that is not given is left to the default."""
    fields: dict[str, Any] = {"name": model.name, "version_labels": dict(model.version_labels)}
    if model.base_path:
        fields["base_path"] = model.base_path
    if model.model_platform or model.model_type == 2:
        fields["platform"] = model.model_platform or "OTHER"
    policy = model.model_version_policy
    match policy.WhichOneof("policy_choice"):
        case "latest":
            fields["model_version_policy"] = f"latest:{policy.latest.num_versions or 1}"
        case "all":
            fields["model_version_policy"] = "all"
        case "specific":
            fields["model_version_policy"] = f"specific:{','.join(map(str, policy.specific.versions))}"
    return fields


def explain(err: ValidationError) -> list[str]:
    """One line per problem, with the names of the flags. It never contains the value of a secret."""
    lines = []
    for problem in err.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":  # a key of the config file: which one may be meant, which there are?
            known = list(ModelEntry.model_fields)
            near = [_OTHER_NAMES[where]] if where in _OTHER_NAMES else get_close_matches(where, known, 1)
            meant = f"; is {near[0]!r} meant?" if near else "."
            lines.append(f"there is no key {where[:80]!r}{meant} There are: {', '.join(known)}")
            continue
        message = problem["msg"].removeprefix("Value error, ")
        is_secret = "password" in where or re.search(r"://.*[@?]", str(problem["input"]))  # as of a signed address
        given = f" (given {str(problem['input'])[:80]!r})" if where and not is_secret else ""
        lines += [f"{where}: {message}{given}"] if where else message.split("; ")
    return lines
