"""The servers that `make bench` compares: how each is started and asked for one picture, and how it was tuned.

A peer runs in an environment of its own under .bench/ (requirements/bench-*.txt) and gets a picture in the form that
costs it least.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.models.runtime import allocator
from loadtest.measure import processes
from loadtest.traffic.answers import NoAnswer, post

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from loadtest.traffic.pictures import Picture

PEERS = Path(__file__).parent / "peers"
ENVIRONMENTS = Path(".bench")
COMPILED = Path("build/compiled/bin/darkroom")  # `make compiled`

# Peers allocate as they come, whatever the bench does itself; the tuned one as Darkroom does.
TENSORFLOWS_OWN_MEMORY = {"LD_PRELOAD": "", "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "0"}


@dataclass(frozen=True, slots=True)
class Contender:
    """A kind of server. In `command` and `environment`, {model}, {version} and {port} stand for what it is to serve."""

    name: str
    about: str
    command: tuple[str, ...]
    path: str
    ready_path: str
    content_type: str
    encode: Callable[[Picture], bytes]
    predicted: Callable[[bytes], object]
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: str = ""  # its environment under .bench/; empty: Darkroom's own

    @property
    def is_installed(self) -> bool:
        """Whether its environment was made."""
        return not self.needs or _python(self.needs).exists()


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A contender that answers."""

    contender: Contender
    port: int
    pid: int

    @property
    def url(self) -> str:
        """Where it takes pictures."""
        return f"http://127.0.0.1:{self.port}{self.contender.path}"

    def ask(self, picture: Picture) -> object:
        """What it says a picture is.

        Raises:
            NoAnswer: it refused, failed, or said something else than a prediction.
        """
        contender = self.contender
        try:
            data = post(self.url, contender.encode(picture), contender.content_type, timeout_s=60)
        except NoAnswer as err:
            raise NoAnswer(f"{contender.name}: {err}") from err
        return contender.predicted(data)


@contextmanager
def started(contender: Contender, folder: Path, version: Path, logs: Path) -> Iterator[RunningServer]:
    """The contender with a model, ready; ended with the block.

    Raises:
        DidNotStart: it could not.
    """
    port = processes.free_port()
    values = {"model": folder, "version": version.resolve(), "port": port}
    with processes.running(
        [part.format(**values) for part in contender.command],
        port=port,
        ready_path=contender.ready_path,
        log=logs / f"{contender.name.replace(' ', '_')}.log",
        environment={name: text.format(**values) for name, text in contender.environment.items()},
    ) as pid:
        yield RunningServer(contender, port, pid)


def _python(name: str) -> Path:
    return ENVIRONMENTS / name / "bin" / "python"


def _raw(picture: Picture) -> bytes:
    return picture.data


def _base64(picture: Picture) -> bytes:
    return base64.urlsafe_b64encode(picture.data)


def _v2(picture: Picture) -> bytes:
    text = base64.urlsafe_b64encode(picture.data).decode()
    return json.dumps({"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": [text]}]}).encode()


def _predict(body: bytes) -> object:
    return json.loads(body)["predict"]


def _v2_predict(body: bytes) -> object:
    return next(output["data"] for output in json.loads(body)["outputs"] if output["name"] == "predict")


def mosec(name: str, about: str, **tuning: str) -> Contender:
    """Mosec with the model, tuned by the PEER_* variables of loadtest/bench/peers."""
    return Contender(
        name,
        about,
        (str(_python("mosec")), str(PEERS / "mosec_server.py"), "--address=127.0.0.1", "--port={port}"),
        path="/inference",
        ready_path="/",
        content_type="text/plain",
        encode=_base64,
        predicted=_predict,
        environment={"PEER_MODEL": "{version}", **TENSORFLOWS_OWN_MEMORY, **tuning},
        needs="mosec",
    )


_SERVE = ("serve", "--host=127.0.0.1", "--port={port}", "--model_base_path={model}")

INTERPRETED = Contender(
    "Darkroom, interpreted",
    "as Python, every default, one raw picture a request",
    (sys.executable, "-m", "darkroom.service", *_SERVE),
    path="/",
    ready_path="/v2/health/ready",
    content_type="image/jpeg",
    encode=_raw,
    predicted=_predict,
)

DARKROOM = replace(
    INTERPRETED,
    name="Darkroom",
    about="compiled, as its image is, every default, one raw picture a request",
    command=(str(COMPILED), *_SERVE),
)


def tuned_darkroom(workers: int, images: int) -> Contender:
    """Darkroom as so many processes behind one address, with larger batches than it takes unasked."""
    about = f"compiled, {workers} workers, batches up to {images}, every other default, one raw picture a request"
    flags = (f"--workers={workers}", f"--max_batch_images={images}")
    return replace(DARKROOM, name="Darkroom, tuned", about=about, command=(*DARKROOM.command, *flags))


MOSEC = mosec("Mosec", "one worker, batches up to 64 within 1 ms, the signature called eagerly")


def tuned_mosec(workers: int, images: int) -> Contender:
    """Mosec with what serves one model best on one machine, found by trying, and TensorFlow's quicker call."""
    memory = ", jemalloc" if allocator.is_jemalloc() else ""
    return mosec(
        "Mosec, tuned",
        f"{workers} workers, batches up to {images} within 1 ms, the signature by a callable of a TF1 session{memory}",
        PEER_ENGINE="session",
        TF_ONEDNN_THREADPOOL_USE_CALLER_THREAD="1",  # as Darkroom's own (models/runtime/tensorflow.py)
        TF_ONEDNN_USE_SYSTEM_ALLOCATOR="1" if allocator.is_jemalloc() else "0",  # and this
        LD_PRELOAD=os.environ.get("LD_PRELOAD", ""),
        PEER_WORKERS=str(workers),
        PEER_BATCH=str(images),
    )


def mlserver(images: int) -> Contender:
    """MLServer with the model, batches up to so many pictures."""
    return Contender(
        "MLServer",
        f"batches up to {images} within 1 ms, in the server's own process, the signature called eagerly in a thread",
        (str(_python("mlserver").parent / "mlserver"), "start", str(PEERS)),
        path="/v2/models/default/infer",
        ready_path="/v2/models/default/ready",
        content_type="application/json",
        encode=_v2,
        predicted=_v2_predict,
        environment={
            "PEER_MODEL": "{version}",
            **TENSORFLOWS_OWN_MEMORY,
            "PYTHONPATH": str(PEERS),
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": "{port}",
            "MLSERVER_GRPC_PORT": "0",
            "MLSERVER_METRICS_ENDPOINT": "",
            "MLSERVER_PARALLEL_WORKERS": "0",
            "MLSERVER_DEBUG": "false",
            "MLSERVER_MODEL_NAME": "default",
            "MLSERVER_MODEL_IMPLEMENTATION": "mlserver_model.PictureModel",
            "MLSERVER_MODEL_MAX_BATCH_SIZE": str(images),
            "MLSERVER_MODEL_MAX_BATCH_TIME": "0.001",
        },
        needs="mlserver",
    )
