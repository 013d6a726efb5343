"""A tiny HTTP server for the load test's own tests: it knows a picture by its bytes and answers as a Darkroom would."""

import base64
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast
from zlib import crc32

from tests.httpserver import in_thread

TIMING = 'queue;dur=1.25, execute;dur=3.5, total;dur=5, batch;desc="8"'


class PictureServer(ThreadingHTTPServer):
    """Answers `predict` by the picture's CRC; after `right_answers` of them wrong ones or, where `is_full`, 429."""

    daemon_threads = True

    def __init__(self, *, right_answers: int = 10**9, is_full: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.right_answers, self.is_full, self.answered = right_answers, is_full, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, pictures: list[bytes]) -> tuple[int, dict[str, object]]:
        for row, picture in enumerate(pictures):
            if not picture.endswith(b"\xff\xd9"):
                return 400, {"error": f"images[{row}]: truncated"}
        self.answered += 1
        if self.answered > self.right_answers and self.is_full:
            return 429, {"error": "full"}
        shift = int(self.answered > self.right_answers)
        return 200, {"predict": [crc32(picture) % 1000 + shift for picture in pictures]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: in two, Nagle and the delayed ACK cost 40 ms
    server: PictureServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, document = self.server.answer(self._pictures(body))
        if status == 200:
            document = self._worded(document)
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Server-Timing", TIMING)
        if status == 429:
            self.send_header("Retry-After", "3")
        self.end_headers()
        self.wfile.write(text)

    def _pictures(self, body: bytes) -> list[bytes]:
        content_type = self.headers["Content-Type"]
        if self.path.startswith("/v1/"):
            return [base64.b64decode(row["b64"]) for row in json.loads(body)["instances"]]
        if self.path.startswith("/v2/"):
            return self._elements(body[int(self.headers["Inference-Header-Content-Length"]) :])
        if content_type == "application/json":
            return [base64.urlsafe_b64decode(text) for text in json.loads(body)["data"]["images"]]
        if content_type == "image/jpeg":
            return [body]
        form = BytesParser().parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
        return [bytes(part.get_payload(decode=True)) for part in form.walk() if part.get_filename()]

    @staticmethod
    def _elements(tensor: bytes) -> list[bytes]:
        pictures = []
        while tensor:
            (size,) = struct.unpack_from("<I", tensor)
            pictures.append(tensor[4 : 4 + size])
            tensor = tensor[4 + size :]
        return pictures

    def _worded(self, document: dict[str, object]) -> dict[str, object]:
        """The answer in the words of the dialect that asked."""
        predict = cast("list[int]", document["predict"])
        if self.path.startswith("/v1/"):
            return {"predictions": [{"predict": each} for each in predict]}
        if self.path.startswith("/v2/"):
            return {"outputs": [{"name": "predict", "shape": [len(predict)], "data": predict}]}
        return document

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(server: PictureServer) -> Iterator[PictureServer]:
    """The server, answering in a thread of its own until the block ends."""
    with in_thread(server):
        yield server
