"""One server for the tests of gRPC that need no settings of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from darkroom.models.engines.fakes import EchoEngine, FailingEngine, fake_model
from tests.echo import TensorEcho
from tests.grpc.calls import channel
from tests.pictures import picture
from tests.serving import running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from darkroom.service.server import Server

GUILTY = picture(99)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Serves `default`, an echo of pictures that refuses GUILTY, and `tensors`, an echo of tensors."""
    default = fake_model(FailingEngine(EchoEngine(), lambda data: data == GUILTY), name="default")
    with running(default, fake_model(TensorEcho(), name="tensors"), grpc_port=0) as made:
        yield made


@pytest.fixture
def made(server: Server) -> Iterator[Any]:
    """A channel to it."""
    with channel(server.grpc_address) as opened:
        yield opened
