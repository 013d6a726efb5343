"""Models that take a quarter of a second and a whole second a picture: how long a start takes, and what batches traffic finds.

    python -m loadtest.experiments.models.slow_models
    python -m loadtest.experiments.models.slow_models --darkroom ../before/.venv/bin/darkroom --darkroom .venv/bin/darkroom

It makes the models itself: JPEGs of any size, resized to 224x224, through --convolutions of 64 channels each. Each server starts with
every default and an empty cache, one at a time. Its clients send the next picture as soon as they are answered, and wait for the
Retry-After of a refusal. The batch sizes are those that `Server-Timing` reports, each batch counted once. `engine` is what the
same graph does in a TensorFlow function, in the best of a few batch sizes. Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from loadtest.measure import machine
from loadtest.measure.processes import free_port, running
from loadtest.measure.tables import number, table
from loadtest.traffic.answers import parse_timing
from loadtest.traffic.closed_loop import BACK_OFF_S, show_progress
from loadtest.traffic.connections import ConnectionPool, header, request_bytes, retry_after_s
from loadtest.traffic.pictures import json_body, load

SIDE, CHANNELS = 224, 64
SIZES = (1, 2, 4)  # of the batches that the engine alone is asked for


class SlowStart(NamedTuple):
    """What one start and its traffic told: seconds to ready, and of each part of the load its answers, refusals and batches."""

    ready_s: float
    answered: Sequence[int]
    refused: Sequence[int]
    batches: Sequence[Counter[int]]


def make(folder: Path, convolutions: int) -> float:
    """Writes the model; returns the pictures a second that TensorFlow does alone, in the best batch size of `SIZES`."""
    import tensorflow as tf  # noqa: PLC0415 - takes seconds, and `--help` does not need it

    kernels = [
        tf.constant(tf.random.stateless_normal([3, 3, 3 if n == 0 else CHANNELS, CHANNELS], [n, 1]) / 20)
        for n in range(convolutions)
    ]

    def decode(data: Any) -> Any:
        picture = tf.io.decode_jpeg(tf.io.decode_base64(data), channels=3)
        return tf.image.resize(tf.cast(picture, tf.float32) / 255, [SIDE, SIDE])

    def scores(pixels: Any) -> dict[str, Any]:
        for kernel in kernels:
            pixels = tf.nn.relu(tf.nn.conv2d(pixels, kernel, 1, "SAME"))
        return {"probability": tf.nn.softmax(tf.reduce_mean(pixels, [1, 2]))}

    def serve(images: Any) -> Any:
        return scores(tf.map_fn(decode, images, fn_output_signature=tf.TensorSpec([SIDE, SIDE, 3], tf.float32)))

    signature = tf.function(serve, input_signature=[tf.TensorSpec([None], tf.string, "images")])
    tf.saved_model.save(tf.Module(), str(folder), signatures={"serving_default": signature})
    call = tf.function(scores)
    best = 0.0
    for size in SIZES:
        pixels = tf.zeros([size, SIDE, SIDE, 3])
        call(pixels)
        began_s = time.perf_counter()
        call(pixels)["probability"].numpy()
        best = max(best, size / (time.perf_counter() - began_s))
    return best


async def drive(
    port: int, *, clients: int, parts: int, part_s: float
) -> tuple[list[int], list[int], list[Counter[int]]]:
    """Answers, refusals and batch sizes of `clients` closed-loop clients, in `parts` of `part_s` seconds each."""
    pool = ConnectionPool("127.0.0.1", port, limit=clients)
    requests = [request_bytes("127.0.0.1", json_body((picture,))) for picture in load("photos")]
    answered, refused, rows = [0] * parts, [0] * parts, [Counter[int]() for _ in range(parts)]
    start_s = time.perf_counter()
    end_s = start_s + parts * part_s

    async def client(place: int) -> None:
        while time.perf_counter() < end_s:
            reply = await pool.answer(requests[place % len(requests)])
            place += clients
            part = min(parts - 1, int((time.perf_counter() - start_s) / part_s))
            if reply.status != 200:
                refused[part] += 1
                await asyncio.sleep(retry_after_s(reply) or BACK_OFF_S)
                continue
            answered[part] += 1
            images = parse_timing(header(reply, "Server-Timing")).batch_images
            if images is not None:
                rows[part][images] += 1

    async def progress() -> None:
        while (left_s := end_s - time.perf_counter()) > 0:
            show_progress(f"{left_s:3.0f} s left  answered {sum(answered)}  refused {sum(refused)}")
            await asyncio.sleep(min(10.0, left_s))

    await asyncio.gather(progress(), *(client(place) for place in range(clients)))
    await pool.close()
    return answered, refused, [Counter({size: round(seen / size) for size, seen in part.items()}) for part in rows]


def measure(darkroom: str, model: Path, folder: Path, options: argparse.Namespace) -> SlowStart:
    """Starts one server with every default, waits until it is ready, and drives it."""
    port = free_port()
    command = [*darkroom.split(), "serve", "--host=127.0.0.1", f"--port={port}"]
    command += [f"--model_base_path={model}", f"--cache_dir={folder}"]
    began_s = time.perf_counter()
    with running(command, port=port, ready_path="/v2/health/ready", log=folder / "log"):
        ready_s = time.perf_counter() - began_s
        part_s = options.seconds / options.parts
        found = asyncio.run(drive(port, clients=options.clients, parts=options.parts, part_s=part_s))
    return SlowStart(ready_s, *found)


def row(name: str, found: SlowStart, part_s: float) -> list[str]:
    """One line of the table."""
    batches = [
        " ".join(f"{size}x{seen}" for size, seen in sorted(part.items()) if seen) or "-" for part in found.batches
    ]
    rates = " ".join(number(seen / part_s, digits=2) for seen in found.answered)
    return [name, number(found.ready_s, digits=1), rates, " ".join(map(str, found.refused)), ", ".join(batches)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.models.slow_models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--darkroom", action="append", help="a command to measure; several are measured in turn [this one]")
    add("--convolutions", type=int, nargs="+", default=[12, 48], help="one model for each number [12 48]")
    add("--clients", type=int, default=16, help="[16]")
    add("--seconds", type=float, default=60.0, help="of the load [60]")
    add("--parts", type=int, default=4, help="that the load is told in [4]")
    options = parser.parse_args(arguments)
    rows = []
    with TemporaryDirectory(prefix="slow-models-") as name:
        for convolutions in options.convolutions:
            model = Path(name, f"c{convolutions}")
            rate = make(model / "1", convolutions)
            for place, darkroom in enumerate(options.darkroom or [f"{sys.executable} -m darkroom"]):
                folder = Path(name, f"cache{convolutions}-{place}")
                folder.mkdir()
                found = measure(darkroom, model, folder, options)
                label = f"{1 / rate:.2f} s a picture ({rate:.1f}/s alone), {darkroom}"
                rows.append(row(label, found, options.seconds / options.parts))
    heads = ("model and server", "ready, s", "answers/s", "refused", "batches: size x how many")
    print(f"{machine.lines(machine.describe())}\n\n{table(heads, rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
