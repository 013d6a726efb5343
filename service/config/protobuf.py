"""Protobuf messages from descriptions in words of our own, and the config files that are their text form.

A description has the original names, numbers and types, which are facts. A line is one of

    file NAME PACKAGE [IMPORTS]
    message NAME FIELD=NUMBER:TYPE …      `*` before a type: repeated; `%`: an enum; `map:TYPE`: by text, `map64:TYPE`: by
                                          uint64; `ONEOF/FIELD`: a choice
    enum NAME VALUE=NUMBER …
    service NAME METHOD:REQUEST>ANSWER …  `*` before a type: a stream

An indented line continues the one before. A type is a scalar of protobuf, a name of the same package, or a full name with a
leading dot. The name of a message in another one has the other's name before it, with a dot.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from darkroom.models.errors import instead_of
from darkroom.service.config.triton_schema import MODEL_CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator

# The files of TensorFlow Serving 2.20. Of ConfigProto and LoggingConfig only what has a meaning here.
CONFIG_FILES = """
file google/protobuf/wrappers.proto google.protobuf
message Int64Value value=1:int64
message StringValue value=1:string
message BoolValue value=1:bool

file google/protobuf/any.proto google.protobuf
message Any type_url=1:string value=2:bytes

file tensorflow_serving/config/log_collector_config.proto tensorflow.serving
message LogCollectorConfig type=1:string filename_prefix=2:string

file tensorflow_serving/config/logging_config.proto tensorflow.serving google/protobuf/any.proto
  tensorflow_serving/config/log_collector_config.proto
message PerTaskSamplingConfig dc=1:string task_index=2:int32 sampling_rate=3:double
message SamplingConfig sampling_rate=1:double attributes=2:int32 per_task_sampling_configs=3:*PerTaskSamplingConfig
message LoggingConfig log_collector_config=1:LogCollectorConfig sampling_config=2:SamplingConfig
  custom_logging_config=3:.google.protobuf.Any

file tensorflow_serving/config/file_system_storage_path_source.proto tensorflow.serving
message FileSystemStoragePathSourceConfig file_system_poll_wait_seconds=3:int64
message FileSystemStoragePathSourceConfig.ServableVersionPolicy
  policy_choice/latest=100:FileSystemStoragePathSourceConfig.ServableVersionPolicy.Latest
  policy_choice/all=101:FileSystemStoragePathSourceConfig.ServableVersionPolicy.All
  policy_choice/specific=102:FileSystemStoragePathSourceConfig.ServableVersionPolicy.Specific
message FileSystemStoragePathSourceConfig.ServableVersionPolicy.Latest num_versions=1:uint32
message FileSystemStoragePathSourceConfig.ServableVersionPolicy.All
message FileSystemStoragePathSourceConfig.ServableVersionPolicy.Specific versions=1:*int64

file tensorflow_serving/config/model_server_config.proto tensorflow.serving google/protobuf/any.proto
  tensorflow_serving/config/file_system_storage_path_source.proto tensorflow_serving/config/logging_config.proto
enum ModelType MODEL_TYPE_UNSPECIFIED=0 TENSORFLOW=1 OTHER=2
message ModelConfig name=1:string base_path=2:string model_type=3:%ModelType model_platform=4:string
  logging_config=6:LoggingConfig model_version_policy=7:FileSystemStoragePathSourceConfig.ServableVersionPolicy
  version_labels=8:map:int64
message ModelConfigList config=1:*ModelConfig
message ModelServerConfig config/model_config_list=1:ModelConfigList config/custom_model_config=2:.google.protobuf.Any

file tensorflow_serving/servables/tensorflow/session_bundle_config.proto tensorflow.serving google/protobuf/wrappers.proto
message BatchingParameters max_batch_size=1:.google.protobuf.Int64Value batch_timeout_micros=2:.google.protobuf.Int64Value
  max_enqueued_batches=3:.google.protobuf.Int64Value num_batch_threads=4:.google.protobuf.Int64Value
  thread_pool_name=5:.google.protobuf.StringValue allowed_batch_sizes=6:*int64 pad_variable_length_inputs=7:bool
  enable_large_batch_splitting=8:.google.protobuf.BoolValue max_execution_batch_size=9:.google.protobuf.Int64Value

file tensorflow_serving/config/monitoring_config.proto tensorflow.serving
message PrometheusConfig enable=1:bool path=2:string
message MonitoringConfig prometheus_config=1:PrometheusConfig

file tensorflow_serving/config/ssl_config.proto tensorflow.serving
message SSLConfig server_key=1:string server_cert=2:string custom_ca=3:string client_verify=4:bool

file tensorflow/core/protobuf/config.proto tensorflow
message GPUOptions per_process_gpu_memory_fraction=1:double allow_growth=4:bool
message ConfigProto intra_op_parallelism_threads=2:int32 inter_op_parallelism_threads=5:int32 gpu_options=6:GPUOptions
  allow_soft_placement=7:bool log_device_placement=8:bool
"""
_SCALARS = {name.removeprefix("TYPE_").lower(): number for name, number in FieldDescriptorProto.Type.items()}
_MAP_KEYS = {"map": "string", "map64": "uint64"}
_NO_VALUE = re.compile(r'Enum type "(?P<type>[^"]*)" has no value named (?P<value>\w+)')
_NO_FIELD = re.compile(r'no field named "(?P<field>[^"]*)"')


def read_schema(text: str) -> Iterator[FileDescriptorProto]:
    """The files of a schema; see the head of this module."""
    statements = [line.split() for line in text.replace("\n  ", " ").splitlines() if line]
    file = FileDescriptorProto()
    for kind, name, *words in statements:
        if kind == "file":
            if file.name:
                yield file
            file = FileDescriptorProto(name=name, package=words[0], dependency=words[1:], syntax="proto3")
        elif kind == "service":
            _add_service(file, name, words)
        elif kind == "enum":
            owner, inner = _owner(file, name)
            values = owner.enum_type.add(name=inner).value
            for value, number in (word.split("=") for word in words):
                values.add(name=value, number=int(number))
        else:
            owner, inner = _owner(file, name)
            made = (file.message_type if owner is file else owner.nested_type).add(name=inner)
            for word in words:
                _add_field(made, f".{file.package}.", name, word)
    yield file


def _owner(file: FileDescriptorProto, name: str) -> tuple[Any, str]:
    """What a message or an enum stands in, the file or another message, and its name there."""
    *outer, inner = name.split(".")
    owner: Any = file
    for part in outer:
        inside = owner.message_type if owner is file else owner.nested_type
        owner = next(each for each in inside if each.name == part)
    return owner, inner


def _add_field(made: DescriptorProto, package: str, owner: str, word: str) -> None:
    """Adds a field, and the message of its entries if it is a map."""
    key, kind = word.split(":", 1)
    path, number = key.split("=")
    choice, _, name = path.rpartition("/")
    field = made.field.add(name=name, number=int(number), label=FieldDescriptorProto.LABEL_OPTIONAL)
    kind_of_map, _, value = kind.partition(":")
    if kind_of_map in _MAP_KEYS:
        entry = made.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        for part in (f"key=1:{_MAP_KEYS[kind_of_map]}", f"value=2:{value}"):
            _add_field(entry, package, "", part)
        kind = f"*{owner}.{entry.name}"
    if kind.startswith("*"):
        field.label = FieldDescriptorProto.LABEL_REPEATED
        kind = kind[1:]
    if choice:
        names = [each.name for each in made.oneof_decl]
        if choice not in names:
            made.oneof_decl.add(name=choice)
        field.oneof_index = names.index(choice) if choice in names else len(names)
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = FieldDescriptorProto.TYPE_ENUM if kind[0] == "%" else FieldDescriptorProto.TYPE_MESSAGE
        kind = kind.lstrip("%")
        field.type_name = kind if kind.startswith(".") else f"{package}{kind}"


def _add_service(file: FileDescriptorProto, name: str, words: list[str]) -> None:
    service = file.service.add(name=name)
    for word in words:
        method, types = word.split(":")
        asked, answer = types.split(">")
        service.method.add(
            name=method,
            input_type=f".{file.package}.{asked.lstrip('*')}",
            output_type=f".{file.package}.{answer.lstrip('*')}",
            client_streaming=asked.startswith("*"),
            server_streaming=answer.startswith("*"),
        )


def parse_text(name: str, text: str, *, is_secret: bool = False) -> Any:
    """The message of this full name, one of a config file, that protobuf text describes.

    Raises:
        ValueError: the text is no such message; names the line, and the fields that there are. What `is_secret` is not
            quoted.
    """
    made = GetMessageClass(POOL.FindMessageTypeByName(name))()
    try:
        text_format.Parse(text, made, descriptor_pool=POOL)
    except text_format.ParseError as err:
        raise ValueError(_explain(err, is_secret=is_secret)) from (None if is_secret else err)
    except RecursionError as err:
        raise ValueError("is nested too deep") from err
    return made


def _explain(err: text_format.ParseError, *, is_secret: bool) -> str:
    """What is wrong with a text and where; an unknown field with the one that may be meant."""
    line = err.GetLine()
    message = str(err)
    where = "" if line is None else f"line {line}: "
    if enum := _NO_VALUE.search(message):
        values = POOL.FindEnumTypeByName(enum["type"]).values_by_name
        return f"{where}there is no {enum['value'][:80]!r}{instead_of(enum['value'], values)}"
    if (found := _NO_FIELD.search(message)) is None:
        said = "is no protobuf text of this kind" if is_secret else message.partition(" : ")[2] or message
        hint = "; a message is wanted here, as in max_batch_size { value: 8 }" if 'Expected "{"' in said else ""
        return f"{where}{said[:200].removesuffix('.')}{hint}"
    owner = re.search(r'Message type "([^"]+)"', message)
    fields = list(POOL.FindMessageTypeByName(owner[1]).fields_by_name) if owner else []
    kind = owner[1].rpartition(".")[2] if owner else "the message"
    return f"{where}{kind} has no field {found['field'][:80]!r}{instead_of(found['field'], fields)}"


POOL = DescriptorPool()
for _file in (*read_schema(CONFIG_FILES), *read_schema(MODEL_CONFIG)):
    POOL.Add(_file)
