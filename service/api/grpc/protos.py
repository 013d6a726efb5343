"""The protobuf classes of the gRPC dialects, in the descriptor pool of the config files, which they share messages with.

In protobuf's common pool they could not stand beside those of TensorFlow or of a client library: a pool takes a name only
from one file.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from darkroom.service.api.grpc.schema import FILES, REFLECTION
from darkroom.service.config.protobuf import POOL, read_schema
from darkroom.service.errors import CodecError

VERSIONS = ("v1", "v1alpha")  # of the reflection protocol


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


SERVICES: list[str] = []  # the full name of each
for _text in (FILES, *(REFLECTION.format(version=version) for version in VERSIONS)):
    for _file in read_schema(_text):
        POOL.Add(_file)
        SERVICES += [f"{_file.package}.{each.name}" for each in _file.service]
