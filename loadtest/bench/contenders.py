"""The servers that `make bench` compares: how to start each one, how to send it a picture, and how it was tuned.

Each other server runs in its own environment under .bench/ (requirements/bench-*.txt). A picture is sent as base64 in
JSON, since that is what the clients of these servers send; Darkroom and Mosec get the same body, and both read it with
orjson. `raw` measures the same server with the body that is cheapest for it.
"""

from __future__ import annotations

import base64
import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.models.runtime.memory import jemalloc_environment
from loadtest.measure import processes
from loadtest.traffic.answers import NoAnswer, post
from loadtest.traffic.pictures import json_body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from loadtest.traffic.pictures import Picture

PEERS = Path(__file__).parent / "peers"
ENVIRONMENTS = Path(".bench")
COMPILED = Path("build/compiled/bin/darkroom")  # `make compiled`

# The other servers use their default allocator, also if the benchmark itself has jemalloc; the tuned one uses Darkroom's.
TENSORFLOWS_OWN_MEMORY = {"LD_PRELOAD": "", "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "0"}


@dataclass(frozen=True, slots=True)
class Contender:
    """A kind of server. `command` and `environment` may contain {model}, {version} and {port}."""

    name: str
    about: str
    command: tuple[str, ...]
    path: str
    ready_path: str
    content_type: str
    encode: Callable[[Picture], bytes]
    predicted: Callable[[bytes], object]
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: str = ""  # its environment under .bench/; empty: Darkroom's
    has_jemalloc: bool = False  # it is started with jemalloc if that is installed

    @property
    def is_installed(self) -> bool:
        """Whether its environment exists."""
        return not self.needs or _python(self.needs).exists()


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that is ready."""

    contender: Contender
    port: int
    pid: int

    @property
    def url(self) -> str:
        """The URL to which pictures are sent."""
        return f"http://127.0.0.1:{self.port}{self.contender.path}"

    def ask(self, picture: Picture) -> object:
        """Returns the class that it gives a picture.

        Raises:
            NoAnswer: it refused, failed, or did not answer with a prediction.
        """
        contender = self.contender
        try:
            data = post(self.url, contender.encode(picture), contender.content_type, timeout_s=60)
        except NoAnswer as err:
            raise NoAnswer(f"{contender.name}: {err}") from err
        return contender.predicted(data)


@contextmanager
def started(contender: Contender, folder: Path, version: Path, logs: Path) -> Iterator[RunningServer]:
    """Starts a server with a model, waits until it is ready, and ends it with the block.

    Raises:
        DidNotStart: it did not become ready.
    """
    port = processes.free_port()
    values = {"model": folder, "version": version.resolve(), "port": port}
    with processes.running(
        [part.format(**values) for part in contender.command],
        port=port,
        ready_path=contender.ready_path,
        log=logs / f"{contender.name.replace(' ', '_')}.log",
        environment=_memory(contender) | {name: text.format(**values) for name, text in contender.environment.items()},
    ) as pid:
        yield RunningServer(contender, port, pid)


def _memory(contender: Contender) -> dict[str, str]:
    """The variables that decide how a contender allocates."""
    jemalloc = jemalloc_environment() if contender.has_jemalloc else {}
    return jemalloc | {"TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1"} if jemalloc else TENSORFLOWS_OWN_MEMORY


def _python(name: str) -> Path:
    return ENVIRONMENTS / name / "bin" / "python"


def _json(picture: Picture) -> bytes:
    return json_body((picture,)).data


def _picture_bytes(picture: Picture) -> bytes:
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


def mosec(name: str, about: str, *, has_jemalloc: bool = False, **tuning: str) -> Contender:
    """Returns Mosec, tuned by the PEER_* variables of loadtest/bench/peers."""
    return Contender(
        name,
        about,
        (str(_python("mosec")), str(PEERS / "mosec_server.py"), "--address=127.0.0.1", "--port={port}"),
        path="/inference",
        ready_path="/",
        content_type="application/json",
        encode=_json,
        predicted=_predict,
        environment={"PEER_MODEL": "{version}", **tuning},
        needs="mosec",
        has_jemalloc=has_jemalloc,
    )


_SERVE = ("serve", "--host=127.0.0.1", "--port={port}", "--model_base_path={model}")

INTERPRETED = Contender(
    "Darkroom, interpreted",
    "as Python, every default",
    (sys.executable, "-m", "darkroom", *_SERVE),
    path="/",
    ready_path="/v2/health/ready",
    content_type="application/json",
    encode=_json,
    predicted=_predict,
    has_jemalloc=True,
)

DARKROOM = replace(
    INTERPRETED,
    name="Darkroom",
    about="compiled, as its image is, every default",
    command=(str(COMPILED), *_SERVE),
)


def tuned_darkroom(workers: int, images: int) -> Contender:
    """Returns Darkroom with several workers and a larger batch limit than its default."""
    about = f"compiled, {workers} workers, batches up to {images}, every other default"
    flags = (f"--workers={workers}", f"--max_batch_images={images}")
    return replace(DARKROOM, name="Darkroom, tuned", about=about, command=(*DARKROOM.command, *flags))


MOSEC = mosec("Mosec", "one worker, batches up to 64 within 1 ms, the signature called eagerly")


def tuned_mosec(workers: int, images: int) -> Contender:
    """Returns Mosec with the workers and the batch limit that were fastest for one model, and TensorFlow's faster call."""
    memory = ", jemalloc" if jemalloc_environment() else ""
    return mosec(
        "Mosec, tuned",
        f"{workers} workers, batches up to {images} within 1 ms, the signature by a callable of a TF1 session{memory}",
        PEER_ENGINE="session",
        TF_ONEDNN_THREADPOOL_USE_CALLER_THREAD="1",  # as Darkroom does (models/runtime/tensorflow.py)
        has_jemalloc=True,
        PEER_WORKERS=str(workers),
        PEER_BATCH=str(images),
    )


def raw(contender: Contender) -> Contender:
    """Returns Darkroom or Mosec with the cheapest body: the picture's bytes, or for Mosec its base64 without JSON."""
    name, about = f"{contender.name}, raw", "the same server, and the body is the picture"
    if contender.needs:
        return replace(contender, name=name, about=f"{about} as base64", content_type="text/plain", encode=_base64)
    return replace(contender, name=name, about=about, content_type="image/jpeg", encode=_picture_bytes)


def mlserver(images: int) -> Contender:
    """Returns MLServer with batches of up to `images` pictures."""
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
