"""The protobuf classes of the gRPC dialects, in a descriptor pool of our own.

In protobuf's common pool they could not stand beside those of TensorFlow or of a client library: a pool takes a name only
from one file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from darkroom.service.api.grpc.schema import FILES, REFLECTION
from darkroom.service.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSIONS = ("v1", "v1alpha")  # of the reflection protocol
_SCALARS = {name.removeprefix("TYPE_").lower(): number for name, number in FieldDescriptorProto.Type.items()}


def message(name: str) -> Any:
    """The class of a message, by its full name."""
    return GetMessageClass(POOL.FindMessageTypeByName(name))


def parse(cls: Any, body: bytes) -> Any:
    """The message in a body.

    Raises:
        CodecError: the body is no such message.
    """
    try:
        return cls.FromString(body)
    except DecodeError as err:
        raise CodecError(f"the body is no {cls.DESCRIPTOR.full_name}") from err


def read_schema(text: str) -> Iterator[FileDescriptorProto]:
    """The files of a schema; `schema.py` describes its form."""
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
    outer, _, inner = name.rpartition(".")
    return next((each for each in file.message_type if each.name == outer), file), inner


def _add_field(made: DescriptorProto, package: str, owner: str, word: str) -> None:
    """Adds a field, and the message of its entries if it is a map."""
    key, kind = word.split(":", 1)
    path, number = key.split("=")
    choice, _, name = path.rpartition("/")
    field = made.field.add(name=name, number=int(number), label=FieldDescriptorProto.LABEL_OPTIONAL)
    if kind.startswith("map:"):
        entry = made.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        for part in ("key=1:string", f"value=2:{kind[4:]}"):
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


POOL = DescriptorPool()
SERVICES: list[str] = []  # the full name of each
for _text in (FILES, *(REFLECTION.format(version=version) for version in VERSIONS)):
    for _file in read_schema(_text):
        POOL.Add(_file)
        SERVICES += [f"{_file.package}.{each.name}" for each in _file.service]
