"""The pictures that a load test sends, and the request bodies made from them before the first request.

Standard library only: the Locust image has little else.
"""

import base64
import json
import struct
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "payloads"
KINDS = {"photos": ("astronaut", "chelsea", "coffee", "rocket"), "digits": tuple(f"digit_{n}" for n in range(10))}
BOUNDARY = "darkroom-loadtest-7f1c0b"


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture file: its name without the suffix, and its bytes."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class RequestBody:
    """One request, ready to send, and the names of the pictures in it, in row order.

    `dialect` says how to read the answer (`loadtest.traffic.answers.READERS`). `json_bytes` is the header
    Inference-Header-Content-Length of the Open Inference Protocol's binary form; None for all other forms.
    """

    content_type: str
    data: bytes
    names: tuple[str, ...]
    path: str = "/"
    dialect: str = "simple"
    json_bytes: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The request's headers that describe its body."""
        length = {} if self.json_bytes is None else {"Inference-Header-Content-Length": str(self.json_bytes)}
        return {"Content-Type": self.content_type, **length}


def load(kind: str) -> tuple[Picture, ...]:
    """Returns the pictures of one kind, `photos` or `digits`, in the order of their names.

    Raises:
        KeyError: there is no such kind.
    """
    return tuple(Picture(name, (FOLDER / kind / f"{name}.jpg").read_bytes()) for name in KINDS[kind])


def truncated(picture: Picture) -> Picture:
    """Returns the first half of a JPEG: it passes the server's header check, but the graph cannot decode its pixels."""
    return Picture(f"truncated {picture.name}", picture.data[: len(picture.data) // 2])


def cycle(pictures: tuple[Picture, ...], *, start: int, rows: int) -> tuple[Picture, ...]:
    """Returns `rows` pictures from `start` on, cyclically, so that neighbouring rows differ."""
    return tuple(pictures[(start + row) % len(pictures)] for row in range(rows))


def json_body(pictures: tuple[Picture, ...], *, model: str = "default") -> RequestBody:
    """Returns the JSON of `POST /`: `{"data": {"images": [base64, …]}}` in the URL-safe alphabet that STS's clients use."""
    rows = [base64.urlsafe_b64encode(picture.data).decode() for picture in pictures]
    document = {"model_name": model, "data": {"images": rows}}
    data = json.dumps(document, separators=(",", ":")).encode()
    return RequestBody("application/json", data, tuple(picture.name for picture in pictures))


def form_body(pictures: tuple[Picture, ...], *, model: str = "default") -> RequestBody:
    """Returns the form of `POST /`: the first file is called `image`, the others `images`; raw bytes, no base64."""
    parts = [_part('name="model_name"', model.encode(), "text/plain")]
    for row, picture in enumerate(pictures):
        field = "image" if row == 0 else "images"
        parts.append(_part(f'name="{field}"; filename="{picture.name}.jpg"', picture.data, "image/jpeg"))
    data = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    return RequestBody(f"multipart/form-data; boundary={BOUNDARY}", data, tuple(picture.name for picture in pictures))


def raw_body(picture: Picture, *, model: str = "default") -> RequestBody:
    """Returns a `POST /` whose body is the picture."""
    return RequestBody("image/jpeg", picture.data, (picture.name,), f"/?model_name={model}")


def row_body(pictures: tuple[Picture, ...], *, model: str = "default") -> RequestBody:
    """Returns TensorFlow Serving's row form: `{"instances": [{"b64": ...}, ...]}` in the standard alphabet."""
    rows = [{"b64": base64.b64encode(picture.data).decode()} for picture in pictures]
    data = json.dumps({"instances": rows}, separators=(",", ":")).encode()
    names = tuple(picture.name for picture in pictures)
    return RequestBody("application/json", data, names, f"/v1/models/{model}:predict", "tensorflow_serving")


def binary_body(pictures: tuple[Picture, ...], *, model: str = "default") -> RequestBody:
    """Returns the Open Inference Protocol's binary form: JSON, then the length and the bytes of each picture.

    It requests the output `predict` only.
    """
    tensor = b"".join(struct.pack("<I", len(picture.data)) + picture.data for picture in pictures)
    images = {"name": "images", "shape": [len(pictures)], "datatype": "BYTES"}
    document = {
        "inputs": [images | {"parameters": {"binary_data_size": len(tensor)}}],
        "outputs": [{"name": "predict"}],
    }
    head = json.dumps(document, separators=(",", ":")).encode()
    names = tuple(picture.name for picture in pictures)
    path = f"/v2/models/{model}/infer"
    return RequestBody("application/octet-stream", head + tensor, names, path, "open_inference", len(head))


def _part(disposition: str, data: bytes, content_type: str) -> bytes:
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\nContent-Type: {content_type}\r\n\r\n"
    return head.encode() + data + b"\r\n"
