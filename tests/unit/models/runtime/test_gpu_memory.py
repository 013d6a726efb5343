"""GPU memory as TensorFlow counts it. For a CPU nothing is returned, and TensorFlow isn't imported."""

import subprocess
import sys

from darkroom.models.runtime.gpu_memory import device_memory


def test_a_gpu_is_asked_by_tensorflows_name_and_tells_what_it_uses_now_and_at_most() -> None:
    asked: list[str] = []

    def ask(device: str) -> dict[str, int]:
        asked.append(device)
        return {"current": 5, "peak": 9, "another": 1}

    assert device_memory("gpu:1", ask=ask) == {"current": 5, "peak": 9}
    assert asked == ["GPU:1"]


def test_a_gpu_that_tensorflow_does_not_see_has_nothing_to_tell() -> None:
    assert device_memory("gpu:99") == {}


def test_a_cpu_has_nothing_to_tell_and_needs_no_tensorflow() -> None:
    program = (
        "import sys; from darkroom.models.runtime.gpu_memory import device_memory; "
        "sys.exit(device_memory('cpu:0') != {} or 'tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
