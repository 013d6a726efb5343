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
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from darkroom.service.config.triton_schema import MODEL_CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator

_SCALARS = {name.removeprefix("TYPE_").lower(): number for name, number in FieldDescriptorProto.Type.items()}
_MAP_KEYS = {"map": "string", "map64": "uint64"}
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
    made = GetMessageClass(_POOL.FindMessageTypeByName(name))()
    try:
        text_format.Parse(text, made, descriptor_pool=_POOL)
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
    if (found := _NO_FIELD.search(message)) is None:
        said = "is no protobuf text of this kind" if is_secret else message.partition(" : ")[2] or message
        return f"{where}{said[:200]}"
    owner = re.search(r'Message type "([^"]+)"', message)
    fields = list(_POOL.FindMessageTypeByName(owner[1]).fields_by_name) if owner else []
    near = get_close_matches(found["field"], fields, 1)
    meant = f"; is {near[0]} meant?" if near else ""
    kind = owner[1].rpartition(".")[2] if owner else "the message"
    return f"{where}{kind} has no field {found['field'][:80]!r}{meant} There are: {', '.join(fields) or 'none'}"


_POOL = DescriptorPool()
for _file in read_schema(MODEL_CONFIG):
    _POOL.Add(_file)
