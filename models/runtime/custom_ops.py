"""Libraries of custom ops, loaded once into the process, before any model that needs them."""

from collections.abc import Sequence
from pathlib import Path

from darkroom.models.errors import LoadFailed
from darkroom.models.runtime.session import clean
from darkroom.models.runtime.tensorflow import tf


def load_custom_ops(folders: Sequence[Path]) -> list[Path]:
    """Loads every *.so of `folders`, in the order of their names; a library that is loaded already is left as it is.

    Raises:
        LoadFailed: a folder is missing, or TensorFlow cannot load a library.
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
