from __future__ import annotations

import importlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from darkroom.models.runtime.tensorflow import hide_packages

if TYPE_CHECKING:
    from pathlib import Path


def test_a_hidden_package_is_not_found_inside_and_imports_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_module_of_this_test.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with hide_packages("a_module_of_this_test"), pytest.raises(ImportError):
        importlib.import_module("a_module_of_this_test")
    assert importlib.import_module("a_module_of_this_test").VALUE == 1
    with hide_packages("a_module_of_this_test"):  # it is there already
        assert importlib.import_module("a_module_of_this_test").VALUE == 1
    del sys.modules["a_module_of_this_test"]


def test_a_block_that_fails_hides_no_longer() -> None:
    with pytest.raises(RuntimeError), hide_packages("a_module_that_is_nowhere"):
        raise RuntimeError
    assert "a_module_that_is_nowhere" not in sys.modules


@pytest.mark.slow
def test_serving_loads_no_keras_and_has_it_when_it_is_asked_for() -> None:
    program = """
import sys
from darkroom.models.runtime.tensorflow import tf
assert not {"keras", "h5py", "scipy"} & set(sys.modules), "imported in passing"
assert tf.keras.layers.Dense(1).units == 1
assert "keras" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
