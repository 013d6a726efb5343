"""Loads libraries of custom ops into the process, before the models that need them."""

from collections.abc import Sequence
from pathlib import Path

from darkroom.models.errors import LoadFailed
from darkroom.models.runtime.session import clean
from darkroom.models.runtime.tensorflow import tf


def load_custom_ops(folders: Sequence[Path]) -> list[Path]:
    """Loads every *.so file of `folders`, in the order of names, and returns their paths. A second load does nothing.

    Raises:
        LoadFailed: a folder does not exist, or TensorFlow cannot load a library.
    """
    libraries = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise LoadFailed(f"--custom_op_paths: {folder.name} is no folder")
        libraries += sorted(folder.glob("*.so"))
    for library in libraries:
        try:
            tf.load_op_library(str(library))
        except (tf.errors.OpError, OSError) as err:
            raise LoadFailed(f"--custom_op_paths: {library.name} cannot be loaded: {clean(str(err))}") from err
    return libraries
