"""Sends one bomb of each kind to a real server with the default limits: how long the event loop stands still, and memory.

    python -m loadtest.experiments.bombs
    python -m loadtest.experiments.bombs --judge FOLDER

The server serves the digits model, `y = x/2 + 2` and a model that answers one number with 22 MB of JSON. While a bomb is
on its way and answered, `/health` is asked every 2 ms on another connection; the longest wait is the stall. Of --tries,
the shortest counts, because what else the machine does only adds to it. Memory is resident memory of the server: its
peak over what it was before (the largest of --tries), and what is left of that afterwards (of the last). --judge sends nothing: it puts every picture of a
folder before the image guard and prints which are refused.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import io
import json
import os
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from darkroom.models.spec import ModelSpec, SignatureSpec, TensorSpec, Wire
from darkroom.service.config.settings import Settings
from darkroom.service.errors import CodecError
from darkroom.service.predict.image_guard import FORMATS, guard_of
from loadtest.measure.tables import number, table
from tests import hostile, savedmodels
from tests.pictures import picture, standard
from tests.serving import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

JSON, RAW = "application/json", "application/octet-stream"
DIGITS, HALF, WIDE = "digits", "half", "wide"
TIMEOUT_S = 120.0
SETTLE_S = 2.5  # guess: until what an answer left behind is freed
MB = 1_000_000


class Bomb(NamedTuple):
    """One request."""

    path: str
    body: bytes
    headers: dict[str, str]


class Hit(NamedTuple):
    """What one bomb did: its answer, the longest wait for `/health`, and memory in bytes."""

    status: int
    took_s: float
    stall_s: float
    peak: int
    left: int


def picture_bomb(data: bytes) -> Bomb:
    """A body that is one picture."""
    return Bomb(f"/v1/models/{DIGITS}:predict", data, {"Content-Type": RAW})


def json_bomb(model: str, body: bytes, encoding: str = "") -> Bomb:
    """A body in TensorFlow Serving's JSON."""
    headers = {"Content-Type": JSON} | ({"Content-Encoding": encoding} if encoding else {})
    return Bomb(f"/v1/models/{model}:predict", body, headers)


def _padded(start: bytes, filler: bytes, size: int) -> bytes:
    return start + filler * ((size - len(start)) // len(filler))


def _listed(item: bytes, size: int) -> bytes:
    return b'{"inputs": [' + item * (size // len(item)) + item.rstrip(b",") + b"]}"


def _noise_jpeg(size: int, side: int, *, is_progressive: bool) -> bytes:
    """A good JPEG, padded with a comment to at least `size` bytes where it is shorter."""
    out = io.BytesIO()
    Image.effect_noise((side, side), 60).convert("RGB").save(out, "JPEG", quality=40, progressive=is_progressive)
    data = out.getvalue()
    comment = b"\xff\xfe\xff\xff" + bytes(65_533)
    return data[:2] + comment * max(0, (size - len(data)) // len(comment)) + data[2:]


def _scores(count: int) -> bytes:
    numbers = np.random.default_rng(1).random(count).astype(np.float32).tolist()
    return json.dumps({"inputs": numbers}).encode()


def _tensor(data: bytes) -> Bomb:
    fields = {"name": "images", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data) + 4}}
    head = json.dumps({"inputs": [fields]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": RAW}
    return Bomb(f"/v2/models/{DIGITS}/infer", head + len(data).to_bytes(4, "little") + data, headers)


def _form(data: bytes) -> Bomb:
    body = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + data + b"\r\n--x--\r\n"
    return Bomb(f"/v1/models/{DIGITS}:predict", body, {"Content-Type": hostile.FORM})


def _wide(body: object, path: str = f"/v1/models/{WIDE}:predict") -> Bomb:
    return Bomb(path, json.dumps(body).encode(), {"Content-Type": JSON})


def _deep_png(side: int, size: int) -> bytes:
    """A PNG of `size` bytes whose pixels inflate a thousandfold."""
    packer = zlib.compressobj(9)
    block = packer.compress(bytes(4 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    data = block[:2] + block[2:] * (size // len(block))  # the first two bytes are zlib's head
    header = (side.to_bytes(4, "big") * 2) + b"\x08\x02\0\0\0"
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
        for kind, content in chunks
    )


def _many_heads() -> Bomb:
    part = b"--x\r\n" + b"".join(b"h%d: a;" % n + b"b=c;" * 100 + b"\r\n" for n in range(7))
    part += b'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\n\r\n'
    body = part * 2_000 + b"--x--\r\n"
    return Bomb(f"/v1/models/{DIGITS}:predict", body, {"Content-Type": hostile.FORM})


def _one_number() -> dict[str, object]:
    return {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [0.5]}


def _big_png() -> bytes:
    return _padded(picture()[:33], b"\0\0\0\x08tEXta\0bcdefg\0\0\0\0", 19 * MB) + picture()[33:]


def _in_json(data: bytes) -> Bomb:
    return json_bomb(DIGITS, json.dumps({"instances": [{"b64": standard(data)}]}).encode())


def _deep_pngs(count: int) -> Bomb:
    return json_bomb(DIGITS, json.dumps({"instances": [{"b64": standard(_deep_png(28, 4_100))}] * count}).encode())


KINDS: dict[str, Callable[[], Bomb]] = {
    "nothing: a good picture": lambda: picture_bomb(picture(size=(28, 28))),
    "PNG, 200 zTXt chunks of 7.9 MB": lambda: picture_bomb(
        hostile.png_with(b"zTXt", b"a\0\0" + zlib.compress(bytes(7_900_000), 9), 200)
    ),
    "PNG, 19 MB of small chunks": lambda: picture_bomb(_big_png()),
    "PNG, 144 MP": lambda: picture_bomb(hostile.wide_png(12_000, 12_000)),
    "PNG, pixels of 19 MB that inflate to 19 GB": lambda: picture_bomb(_deep_png(4_000, 19 * MB)),
    "PNG, pixels of 250 KB that inflate to 250 MB": lambda: picture_bomb(_deep_png(500, 250_000)),
    "1,000 PNGs of 4 KB that inflate to 4 MB each": lambda: _deep_pngs(1_000),
    "a PNG of 38 MP, flat": lambda: picture_bomb(picture(size=(7_000, 5_500))),
    "JPEG, 2,500 scans": lambda: picture_bomb(hostile.many_scans(2_500)),
    "JPEG, 19 MB of start-of-scan markers": lambda: picture_bomb(
        _padded(hostile.many_scans(1)[:-2], b"\xff\xda", 19 * MB)
    ),
    "JPEG, 19 MB of fill bytes": lambda: picture_bomb(_padded(b"\xff\xd8", b"\xff", 19 * MB)),
    "JPEG, 19 MB of comments": lambda: picture_bomb(_noise_jpeg(19 * MB, 300, is_progressive=False)),
    "JPEG, 49 MP": lambda: picture_bomb(_noise_jpeg(0, 7_000, is_progressive=False)),
    "JPEG, 49 MP, progressive": lambda: picture_bomb(_noise_jpeg(0, 7_000, is_progressive=True)),
    "GIF, 19 MB of blocks of one byte": lambda: picture_bomb(_padded(b"GIF89a\1\0\1\0\0\0\0\x21\xfe", b"\1x", 19 * MB)),
    "GIF, 19 MB of frames": lambda: picture_bomb(
        _padded(b"GIF89a\1\0\1\0\0\0\0", b"\x2c" + bytes(8) + b"\0\2\1x\0", 19 * MB)
    ),
    "WebP, 19 MB": lambda: picture_bomb(_padded(picture(kind="WEBP"), bytes(1_000), 19 * MB)),
    "BMP, 19 MB": lambda: picture_bomb(picture(kind="BMP", size=(2_500, 2_500))),
    "a picture of 19 MB as base64 in JSON": lambda: _in_json(_noise_jpeg(19 * MB, 300, is_progressive=False)),
    "the same with escaped slashes": lambda: json_bomb(
        DIGITS,
        _in_json(_noise_jpeg(19 * MB, 300, is_progressive=False)).body.replace(b"AAAA", b"AAA\\/"),
    ),
    "a picture of 19 MB in a form": lambda: _form(_noise_jpeg(19 * MB, 300, is_progressive=False)),
    "a picture of 19 MB as a binary tensor": lambda: _tensor(_noise_jpeg(19 * MB, 300, is_progressive=False)),
    "1,000 pictures of 19 KB in JSON": lambda: json_bomb(
        DIGITS,
        json.dumps({"instances": [{"b64": standard(_noise_jpeg(0, 160, is_progressive=False))}] * 1_000}).encode(),
    ),
    "gzip, 64 KB to 64 MB": lambda: json_bomb(DIGITS, gzip.compress(bytes(64 << 20)), "gzip"),
    "gzip, JSON of 24 MB": lambda: json_bomb(DIGITS, gzip.compress(_in_json(os.urandom(18 * MB)).body, 1), "gzip"),
    "JSON, 300,000 numbers": lambda: json_bomb(HALF, _scores(300_000)),
    "JSON, 1,000,000 numbers": lambda: json_bomb(HALF, _scores(1_000_000)),
    "JSON, 60 MB of zeros": lambda: json_bomb(HALF, _listed(b"0,", 60 * MB)),
    "JSON, 60 MB of lists": lambda: json_bomb(HALF, _listed(b"[0],", 60 * MB)),
    "JSON, 60 MB of ragged lists": lambda: json_bomb(HALF, _listed(b"[0],[1,2],", 60 * MB)),
    "JSON, 60 MB of objects": lambda: json_bomb(HALF, _listed(b"{},", 60 * MB)),
    "JSON, 250,000 objects": lambda: json_bomb(HALF, _listed(b"{},", 750_000)),
    "JSON, 60 MB of short texts": lambda: json_bomb(HALF, _listed(b'"ab",', 60 * MB)),
    "JSON, 60 MB of escapes": lambda: json_bomb(HALF, b'{"inputs": "' + b'\\"' * (30 * MB) + b'"}'),
    "JSON, 60 MB of brackets": lambda: json_bomb(HALF, b'{"inputs": ' + b"[" * (60 * MB)),
    "a form of 2,000 parts with long heads": _many_heads,
    "an answer of 22 MB in rows": lambda: _wide({"instances": [[0.5]]}),
    "an answer of 22 MB in columns": lambda: _wide({"inputs": [[0.5]]}),
    "an answer of 22 MB, Open Inference": lambda: _wide({"inputs": [_one_number()]}, f"/v2/models/{WIDE}/infer"),
    "an answer of 22 MB, binary": lambda: _wide(
        {"inputs": [_one_number()], "parameters": {"binary_data_output": True}}, f"/v2/models/{WIDE}/infer"
    ),
}


class Pinger(threading.Thread):
    """Asks `/health` over and over, and samples the server's memory."""

    def __init__(self, url: str, pid: int) -> None:
        super().__init__(daemon=True)
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT_S)
        self._pid = pid
        self._is_over = False
        self.stall_s, self.peak = 0.0, 0

    def run(self) -> None:
        """Until `end`."""
        while not self._is_over:
            began_s = time.perf_counter()
            self._connection.request("GET", "/health")
            self._connection.getresponse().read()
            self.stall_s = max(self.stall_s, time.perf_counter() - began_s)
            self.peak = max(self.peak, resident(self._pid))
            time.sleep(0.002)
        self._connection.close()

    def end(self) -> None:
        """Waits for its last answer."""
        self._is_over = True
        self.join()


def resident(pid: int) -> int:
    """The resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def hit(url: str, pid: int, bomb: Bomb) -> Hit:
    """Sends one bomb and reads its answer."""
    address = urlsplit(url)
    before = resident(pid)
    pinger = Pinger(url, pid)
    pinger.start()
    time.sleep(0.05)
    pinger.stall_s = 0.0
    began_s = time.perf_counter()
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT_S)
    connection.request("POST", bomb.path, bomb.body, bomb.headers)
    response = connection.getresponse()
    while response.read(1 << 20):
        pass
    took_s = time.perf_counter() - began_s
    connection.close()
    pinger.end()
    time.sleep(SETTLE_S)
    return Hit(response.status, took_s, pinger.stall_s, pinger.peak - before, resident(pid) - before)


def write_models(folder: Path, digits: Path) -> Path:
    """The models and their configuration file."""
    grid = np.zeros((512, 1, 1), np.float32)
    classes = np.linspace(0, 1, 21, dtype=np.float32)
    savedmodels.numbers(folder / HALF / "1", lambda x: x / 2 + 2, shape=(None,))
    savedmodels.numbers(
        folder / WIDE / "1",
        lambda x: x[:, :1, None, None] + grid + np.linspace(0, 1, 512, dtype=np.float32)[:, None] + classes,
        shape=(None, 1),
    )
    folders = {DIGITS: digits.resolve(), HALF: folder / HALF, WIDE: folder / WIDE}
    entries = [{"name": name, "base_path": str(path), "platform": "tensorflow"} for name, path in folders.items()]
    config = folder / "models.json"
    config.write_text(json.dumps({"model_config_list": entries}), encoding="utf-8")
    return config


def judge(folder: Path) -> tuple[int, list[str]]:
    """How many pictures of a folder there are, by the guard's own formats, and the refused ones with the reason."""
    spec = SignatureSpec(
        "s", (TensorSpec("images", "string", (None,)),), (), wire=Wire.BYTES, image_input="images", formats=FORMATS
    )
    guard = guard_of(Settings())
    count, refused = 0, []
    for path, data in pictures(folder):
        count += 1
        try:
            guard.inspect(data, ModelSpec("m", 1, {"s": spec}).signatures["s"], "images", 0, Counter())
        except CodecError as err:
            refused.append(f"{path}: {err}")
    return count, refused


def pictures(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """The files that Pillow opens as one of the served formats, by their content."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size:
            try:
                with Image.open(path) as image:
                    image.load()
                    kind = (image.format or "").lower()
            except Exception:  # noqa: BLE001, S112 - not a picture, or a broken one
                continue
            if kind in FORMATS:
                yield path, path.read_bytes()


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table with a line a kind, or what the guard says of real files; returns 1 if it refused one."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.bombs", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--tries", type=int, default=3, help="times that each bomb is sent [3]")
    parser.add_argument("--only", default="", help="only kinds with this text in their name")
    parser.add_argument("--digits", type=Path, default=Path("model/digits"), help="the digits model [model/digits]")
    parser.add_argument("--judge", type=Path, help="a folder of real pictures; nothing is sent")
    parsed = parser.parse_args(arguments)
    if parsed.judge is not None:
        count, refused = judge(parsed.judge)
        print(*refused, f"{count} pictures, {len(refused)} refused", sep="\n")
        return 1 if refused else 0
    rows = []
    with tempfile.TemporaryDirectory(prefix="bombs-") as kept:
        config = write_models(Path(kept), parsed.digits)
        server = Process(f"--model_config_file={config}", "--warmup_budget_ms=5000")  # as users have it
        try:
            url, pid = server.wait_ready(), server.process.pid
            for name, make in KINDS.items():
                if parsed.only in name:
                    bomb = make()
                    hits = [hit(url, pid, bomb) for _ in range(parsed.tries)]
                    rows.append((name, len(bomb.body), hits))
                    print(name, *hits, file=sys.stderr, flush=True)
        finally:
            server.stop()
    print(table(("", "bytes", "status", "answered, ms", "stall, ms", "peak, MB", "left, MB"), map(_line, rows)))
    return 0


def _line(row: tuple[str, int, list[Hit]]) -> list[str]:
    name, size, hits = row
    return [
        name,
        number(size, digits=0),
        str(hits[0].status),
        number(1000 * min(each.took_s for each in hits), digits=0),
        number(1000 * min(each.stall_s for each in hits), digits=0),
        number(max(each.peak for each in hits) / MB, digits=0),
        number(hits[-1].left / MB, digits=0),
    ]


if __name__ == "__main__":
    sys.exit(main())
