"""The descriptions of the messages, against those of the projects that they come from."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import tritonclient
from google.protobuf import descriptor_pb2

from darkroom.service.api.grpc.protos import SERVICES, VERSIONS, message, parse
from darkroom.service.api.grpc.schema import FILES
from darkroom.service.config.protobuf import POOL
from darkroom.service.errors import CodecError


def described(file: Any) -> descriptor_pb2.FileDescriptorProto:
    proto = descriptor_pb2.FileDescriptorProto()
    proto.ParseFromString(file.serialized_pb)
    return proto


def fields(messages: Any, where: str = "") -> dict[str, tuple[Any, ...]]:
    """What each field of some messages is on the wire, by its full name."""
    found: dict[str, tuple[Any, ...]] = {}
    for each in messages:
        for field in each.field:
            kind = field.type_name.removesuffix("Entry") or field.type
            found[f"{where}{each.name}.{field.name}"] = (field.number, field.label, kind)
        found |= fields(each.nested_type, f"{where}{each.name}.")
    return found


def check(theirs: Any, names: list[str]) -> int:
    """Compares our files with those of another pool; returns how many fields they have."""
    count = 0
    for name in names:
        ours, other = described(POOL.FindFileByName(name)), described(theirs.FindFileByName(name))
        assert (ours.package, ours.syntax) == (other.package, other.syntax)
        facts = fields(other.message_type)
        for field, fact in fields(ours.message_type).items():
            assert facts[field] == fact, field
            count += 1
    return count


def test_tensorflows_messages_are_those_of_tensorflow() -> None:
    from tensorflow.core.example import example_pb2  # noqa: PLC0415 - takes seconds
    from tensorflow.core.protobuf import meta_graph_pb2  # noqa: PLC0415 - as above

    assert check(example_pb2.DESCRIPTOR.pool, [
        "tensorflow/core/example/feature.proto", "tensorflow/core/example/example.proto",
        "tensorflow/core/framework/tensor.proto", "tensorflow/core/framework/tensor_shape.proto",
        meta_graph_pb2.DESCRIPTOR.name, "google/protobuf/any.proto", "google/protobuf/wrappers.proto",
    ]) > 40  # fmt: skip
    enum = POOL.FindEnumTypeByName("tensorflow.DataType").values_by_name
    theirs = meta_graph_pb2.DESCRIPTOR.pool.FindEnumTypeByName("tensorflow.DataType").values_by_name
    assert {name: enum[name].number for name in enum} == {name: theirs[name].number for name in enum}


def test_triton_s_messages_are_those_of_its_client() -> None:
    """Of its generated modules, which need another protobuf, only the description is read."""
    (folder,) = tritonclient.__path__
    for name in ("model_config", "service"):
        tree = ast.parse(Path(folder, "grpc", f"{name}_pb2.py").read_text(encoding="utf-8"))
        texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is bytes]
        theirs = descriptor_pb2.FileDescriptorProto.FromString(max(texts, key=len))
        ours = described(POOL.FindFileByName(theirs.name))
        facts, found = fields(theirs.message_type), fields(ours.message_type)
        assert {field: facts.get(field) for field in found if "bytes_param" not in field} == {
            field: fact for field, fact in found.items() if "bytes_param" not in field
        }
        if name == "model_config":
            assert found.keys() == facts.keys()
            assert ours.enum_type[0].SerializeToString() == theirs.enum_type[0].SerializeToString()


def test_health_and_reflection_are_those_of_grpc() -> None:
    from grpc_health.v1 import health_pb2  # noqa: PLC0415 - beside the other oracles
    from grpc_reflection.v1alpha import reflection_pb2  # noqa: PLC0415 - as above

    for name, theirs in (
        ("grpc/health/v1/health.proto", health_pb2),
        ("grpc/reflection/v1alpha/reflection.proto", reflection_pb2),
    ):
        facts = fields(described(theirs.DESCRIPTOR).message_type)
        assert {field: facts[field] for field in fields(described(POOL.FindFileByName(name)).message_type)} == fields(
            described(POOL.FindFileByName(name)).message_type
        )


def test_every_message_can_be_made_and_read_again() -> None:
    names = [line.split()[1] for line in FILES.splitlines() if line.startswith("file ")]
    made = [each.full_name for name in names for each in POOL.FindFileByName(name).message_types_by_name.values()]
    assert len(made) > 50
    for name in made:
        cls = message(name)
        assert parse(cls, cls().SerializeToString()) == cls()


def test_the_services_are_known_by_their_full_names() -> None:
    assert "tensorflow.serving.PredictionService" in SERVICES
    assert {f"grpc.reflection.{version}.ServerReflection" for version in VERSIONS} <= set(SERVICES)


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\x05ab", b"\x08"])
def test_a_body_that_is_no_message_is_refused_by_its_name(body: bytes) -> None:
    with pytest.raises(CodecError, match=r"tensorflow\.serving\.PredictRequest"):
        parse(message("tensorflow.serving.PredictRequest"), body)
