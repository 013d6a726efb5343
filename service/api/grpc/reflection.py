"""Server reflection, with which tools such as grpcurl learn the services and their messages."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from darkroom.service.api.grpc.call import Method
from darkroom.service.api.grpc.protos import SERVICES, VERSIONS, message, parse
from darkroom.service.config.protobuf import POOL
from darkroom.service.errors import quote

if TYPE_CHECKING:
    from darkroom.service.api.grpc.call import Exchange

NOT_FOUND, UNIMPLEMENTED = 5, 12


def reflection_methods() -> dict[str, Method]:
    """The method of each path: one for each version of the protocol."""
    return {
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo": Method(partial(reflect, version))
        for version in VERSIONS
    }


async def reflect(version: str, exchange: Exchange) -> None:
    """Answers the client's questions, until it has no more."""
    question = message(f"grpc.reflection.{version}.ServerReflectionRequest")
    answer = message(f"grpc.reflection.{version}.ServerReflectionResponse")
    while (body := await exchange.read()) is not None:
        asked = parse(question, body)
        told = answer(valid_host=asked.host, original_request=asked)
        fill(asked, told)
        exchange.write(told.SerializeToString())


def fill(asked: Any, told: Any) -> None:
    """Answers one question."""
    match asked.WhichOneof("message_request"):
        case "list_services":
            for name in SERVICES:
                told.list_services_response.service.add(name=name)
            return
        case "file_by_filename":
            name, look_up = asked.file_by_filename, POOL.FindFileByName
        case "file_containing_symbol":
            name, look_up = asked.file_containing_symbol, POOL.FindFileContainingSymbol
        case _:
            told.error_response.error_code = UNIMPLEMENTED
            told.error_response.error_message = "there are no extensions"
            return
    try:
        files = [look_up(name)]
    except KeyError:
        told.error_response.error_code = NOT_FOUND
        told.error_response.error_message = f"there is no {quote(name)}"
        return
    for file in files:  # with the files that it needs
        files += [other for other in file.dependencies if other not in files]
    told.file_descriptor_response.file_descriptor_proto.extend([file.serialized_pb for file in files])
