"""Loading through a child process: what it makes, what it refuses, and what becomes of one that dies or hangs."""

import io
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image

from darkroom.models.errors import LoadFailed
from darkroom.models.rewriting.job import Job
from darkroom.models.rows import Rows
from darkroom.models.runtime.tensorflow import tf
from darkroom.models.versions.cache import Cache
from darkroom.models.versions.loader import Loader, check_threads
from tests import savedmodels

pytestmark = pytest.mark.slow
Build = Callable[[Path], Path]
PLENTY_S = 120.0


def loader(folder: Path, timeout_s: float = PLENTY_S) -> Loader:
    return Loader(Cache(folder, max_bytes=1 << 30), timeout_s=timeout_s)


def doubles(folder: Path) -> Path:
    return savedmodels.numbers(folder, lambda x: x * 2)


def aborts(folder: Path) -> Path:
    """Ends the process that runs it: this TensorFlow aborts on an animated WebP."""
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 255)]
    with io.BytesIO() as file:
        frames[0].save(file, "webp", save_all=True, append_images=frames[1:])
        picture = file.getvalue()

    def add_first_pixel(x: Any) -> Any:
        return x + tf.cast(tf.reshape(tf.io.decode_image(tf.constant(picture)), [-1])[0], tf.float32)

    return savedmodels.numbers(folder, add_first_pixel)


def test_a_child_prepares_what_the_next_load_finds_unless_it_is_damaged(
    built: Callable[[Build], Path], tmp_path: Path
) -> None:
    path = built(doubles)
    first = loader(tmp_path).load(Job(path, "m", 3))
    (kept,) = tmp_path.iterdir()
    written = kept.stat().st_mtime_ns, kept.read_bytes()
    second = loader(tmp_path, timeout_s=0.0).load(Job(path, "n", 4))  # no child has time for anything
    for loaded, name, version in ((first, "m", 3), (second, "n", 4)):
        assert (loaded.spec.name, loaded.spec.version) == (name, version)
        answer = loaded.engines["serving_default"].run(Rows({"x": np.ones((2, 4), np.float32)}))
        assert np.array_equal(answer.columns["y"], np.full((2, 4), 2.0))
        assert loaded.samples["serving_default"]
        loaded.close()
    assert kept.read_bytes() == written[1]
    kept.write_bytes(written[1][:-100])  # what is damaged is prepared again
    loader(tmp_path).load(Job(path, "m", 3)).close()
    assert kept.read_bytes() == written[1]


def test_the_child_sees_no_gpu(tmp_path: Path) -> None:
    told = "import os, darkroom.models.rewriting.child as c; c._prepare = lambda _: [os.environ['CUDA_VISIBLE_DEVICES'].encode()]; c.main()"
    command = [sys.executable, "-c", told]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin
        assert child.stdout
        child.stdin.write(Job(tmp_path, "m", 1).dump() + "\n")
        child.stdin.flush()
        assert child.stdout.read() == "-1"


def test_what_two_load_at_once_is_prepared_once(built: Callable[[Build], Path], tmp_path: Path) -> None:
    children: list[object] = []

    class Counting(Loader):
        """Notes each child."""

        def _prepare(self, job: Job, answer: IO[bytes]) -> None:
            children.append(job)
            super()._prepare(job, answer)

    job = Job(built(doubles), "m", 1)
    with ThreadPoolExecutor(3) as threads:
        cache = Cache(tmp_path, max_bytes=1 << 30)
        loaded = list(threads.map(lambda _: Counting(cache, timeout_s=PLENTY_S).load(job), range(3)))
    assert len(children) == 1
    assert [path.suffix for path in tmp_path.iterdir()] == [".artifact"]
    for each in loaded:
        each.close()


def test_a_load_that_waits_for_another_process_ends_with_its_server(
    built: Callable[[Build], Path], tmp_path: Path
) -> None:
    job, waiting = Job(built(doubles), "m", 1), loader(tmp_path)
    with Cache(tmp_path, max_bytes=1).turn(job.key()) as is_ours, ThreadPoolExecutor(1) as threads:
        assert is_ours
        ended = threads.submit(waiting.load, job)
        waiting.stop()
        with pytest.raises(LoadFailed, match="the server is stopping"):
            ended.result(PLENTY_S)


def test_a_model_with_state_is_served_from_its_own_files(built: Callable[[Build], Path], tmp_path: Path) -> None:
    loaded = loader(tmp_path).load(Job(built(savedmodels.counter), "m", 1))
    calls = [
        loaded.engines["serving_default"].run(Rows({"x": np.ones(1, np.float32)})).columns["calls"][0] for _ in range(3)
    ]
    assert calls == [1, 2, 3]
    loaded.close()


def test_what_can_not_be_served_says_why_in_the_words_of_the_child(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"\xff")
    with pytest.raises(LoadFailed, match=r"^saved_model.pb is damaged: it is no SavedModel protobuf$"):
        loader(tmp_path / "cache").load(Job(tmp_path / "1", "m", 1))
    assert list((tmp_path / "cache").iterdir()) == []


def test_custom_ops_that_cannot_be_loaded_name_the_flag(built: Callable[[Build], Path], tmp_path: Path) -> None:
    (tmp_path / "mine.so").write_bytes(b"no library")
    with pytest.raises(LoadFailed, match=r"^--custom_op_paths: mine\.so cannot be loaded"):
        loader(tmp_path / "cache").load(Job(built(doubles), "m", 1, custom_op_paths=(tmp_path,)))


def test_a_model_that_ends_the_process_ends_the_child_alone(built: Callable[[Build], Path], tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="ended with SIG"):
        loader(tmp_path).load(Job(built(aborts), "m", 1))


def test_a_child_that_takes_too_long_is_ended_and_names_the_flag(
    built: Callable[[Build], Path], tmp_path: Path
) -> None:
    with pytest.raises(LoadFailed, match="--load_timeout_ms=50"):
        loader(tmp_path, timeout_s=0.05).load(Job(built(doubles), "m", 1))


def test_a_loader_that_is_stopped_ends_its_child_and_starts_no_other(
    built: Callable[[Build], Path], tmp_path: Path
) -> None:
    ended: list[BaseException] = []
    stopped = loader(tmp_path)

    def load() -> None:
        try:
            stopped.load(Job(built(doubles), "m", 1))
        except LoadFailed as err:
            ended.append(err)

    thread = threading.Thread(target=load)
    thread.start()
    stopped.stop()
    thread.join(PLENTY_S)
    assert [str(err) for err in ended] == ["the server is stopping"]
    with pytest.raises(LoadFailed, match="stopping"):
        stopped.load(Job(built(doubles), "m", 1))


def test_files_that_change_while_they_are_prepared_are_not_served(tmp_path: Path) -> None:
    path = doubles(tmp_path / "1")
    changed = threading.Event()

    class Changing(Job):
        """A job whose files change as soon as its key was made."""

        def key(self) -> str:
            key = super().key()
            if not changed.is_set():
                changed.set()
                (path / "late").write_text("the copy went on")
            return key

    with pytest.raises(LoadFailed, match="changed while"):
        loader(tmp_path / "cache").load(Changing(path, "m", 1))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_child_whose_parent_is_gone_leaves(built: Callable[[Build], Path]) -> None:
    job = Job(built(doubles), "m", 1).dump().encode() + b"\n"
    command = [sys.executable, "-m", "darkroom.models.rewriting.child"]
    ended = subprocess.run(command, input=job, capture_output=True, timeout=PLENTY_S, check=False)  # closes its stdin
    assert (ended.returncode, ended.stdout) == (1, b"")


def test_a_load_fails_where_too_few_threads_can_be_started_and_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    before, start, left = threading.active_count(), threading.Thread.start, iter(range(5))

    def start_few(thread: threading.Thread) -> None:
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(thread)

    check_threads(5)
    monkeypatch.setattr(threading.Thread, "start", start_few)
    with pytest.raises(LoadFailed, match="only 5 of 32 threads"):
        check_threads()
    assert threading.active_count() == before


def test_a_signature_that_ends_its_process_is_refused_and_the_others_are_served(tmp_path: Path) -> None:
    kernel = np.ones((3, 3, 3, 4), np.float32)

    def abort(x: Any) -> Any:  # the rank of its matrix is computed
        matrix = tf.reshape(x, tf.boolean_mask([-1, 1], [True, True] & tf.reduce_all(tf.equal(x, x))))
        return tf.raw_ops.Conv2D(input=matrix, filter=kernel, strides=[1] * 4, padding="SAME")

    layers = {"bad": ((None, 4), "float32", abort), "good": ((None, 4), "float32", lambda x: x * 2)}
    loaded = loader(tmp_path / "cache").load(Job(savedmodels.each(tmp_path / "1", layers), "m", 1))
    assert set(loaded.spec.signatures) == {"good"}
    assert "SIGABRT" in loaded.spec.refused["bad"]
    answer = loaded.engines["good"].run(Rows({"x": np.ones((1, 4), np.float32)})).columns["y"]
    assert np.array_equal(answer, [[2.0] * 4])
    loaded.close()
