"""Writes an existing SavedModel again, with a signature that takes encoded pictures before one that takes tensors.

A SavedModel of TensorFlow 2 is loaded and saved with one signature more. One of TensorFlow 1 is copied file by file, and
only its graph changes. Both keep variables, assets, tables and every output.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Final

from darkroom.models.export.errors import ExportFailed
from darkroom.models.export.export import version_folder, write_extras
from darkroom.models.runtime.session import clean
from darkroom.models.runtime.tensorflow import saved_model_pb2, tf
from darkroom.models.saved_model import FILE_NAME
from darkroom.models.saved_model.front.geometry import FRONT_FILE, write_fit
from darkroom.models.saved_model.front.insert import add_front, make_plan, wrap
from darkroom.models.saved_model.reader import SERVE, read_meta_graph

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from darkroom.models.saved_model.front.preprocess import FrontPlan, Preprocess

_EXTRAS: Final = "assets.extra"
_WARMUP: Final = "tf_serving_warmup_requests"  # recorded requests hold tensors; the new serving_default takes pictures


def wrap_saved_model(
    source: Path,
    base_path: Path,
    said: Preprocess,
    *,
    version: int = 1,
    labels: Sequence[str] = (),
    force: bool = False,
) -> tuple[Path, FrontPlan]:
    """Writes `base_path/<version>`, completely or not at all; returns that folder and what was done.

    Args:
        source: the version folder of the SavedModel to wrap.
        base_path: the folder of the new model.
        said: how pictures become its input.
        version: the name of the version folder, at least 1.
        labels: the class names in order; empty: those that the source has.
        force: replace an existing version.

    Raises:
        ExportFailed: the version exists, or TensorFlow cannot load or save the model.
        LoadFailed: the SavedModel cannot be read, or `said` and its signatures do not go together.
    """
    meta_graph = read_meta_graph(source)
    made = make_plan(meta_graph, said)
    with version_folder(base_path, version, force=force) as folder:
        if meta_graph.object_graph_def.nodes:
            _save_again(source, folder, made)
        else:
            shutil.copytree(source, folder, dirs_exist_ok=True)
            saved = saved_model_pb2.SavedModel.FromString((source / FILE_NAME).read_bytes())
            for graph in saved.meta_graphs:
                if graph.meta_info_def.tags == meta_graph.meta_info_def.tags:
                    graph.CopyFrom(add_front(graph, said))
            (folder / FILE_NAME).write_bytes(saved.SerializeToString(deterministic=True))
        if (source / _EXTRAS).is_dir():
            shutil.copytree(source / _EXTRAS, folder / _EXTRAS, dirs_exist_ok=True)
        (folder / _EXTRAS / _WARMUP).unlink(missing_ok=True)
        fit = made.fit()
        write_extras(folder, labels, {FRONT_FILE: write_fit(fit)} if fit else {})
    return base_path / str(version), made


def _save_again(source: Path, folder: Path, made: FrontPlan) -> None:
    try:
        root: Any = tf.Module()
        root.model = tf.saved_model.load(str(source), tags=[SERVE])  # keeps its variables, tables and assets
        tf.saved_model.save(root, str(folder), signatures=wrap(root.model.signatures, made))
    except Exception as err:
        raise ExportFailed(
            f"TensorFlow cannot load and save it again: {clean(str(err))}; `darkroom serve --pictures` needs no new file"
        ) from err
    (folder / "fingerprint.pb").unlink(missing_ok=True)
