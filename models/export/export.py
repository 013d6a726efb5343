"""Exports a Keras model, `tf.Module` or callable as a SavedModel with one signature, which takes encoded pictures.

    images: string[n] → DecodeBase64 → decode → resize → (x - mean) / std → model → probability: float32[n, classes]
            (wire="base64" only)       └ each alone ─┘                            → predict: int64[n]

This is the usual export of a TensorFlow 1 image server (map_fn, decode_jpeg, resize_images, simple_save), written for
TensorFlow 2. `DecodeBase64` runs on the whole batch, outside the map, so that a server may feed its output instead.
The result of an empty batch (n = 0) is undefined.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from darkroom.models.export.errors import ExportFailed
from darkroom.models.runtime.tensorflow import tf
from darkroom.models.saved_model.front.decode import model_input
from darkroom.models.saved_model.front.geometry import FRONT_FILE, write_fit
from darkroom.models.spec import PictureFit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from darkroom.models.saved_model.front.recipe import Recipe

# The root of a checkout of this project. An editable installation puts it on the import path, where its packages `models`
# and `service` would win over a user's folder of the same name without an `__init__.py`.
_CHECKOUT: Final = Path(__file__).resolve().parents[2]
KERAS_FILES: Final = (".keras", ".h5", ".hdf5")


def export_image_model(
    model: Callable[[Any], Any],
    base_path: Path,
    recipe: Recipe,
    *,
    version: int = 1,
    labels: Sequence[str] = (),
    extras: Mapping[str, str] | None = None,
    force: bool = False,
) -> Path:
    """Writes `base_path/<version>`, completely or not at all, and returns that folder.

    Args:
        model: takes `float32[n, height, width, channels]` and returns `float[n, classes]`. A Keras model is called with
            training=False. A plain callable is traced as it is: Python branches on tensors need a `tf.function`.
        base_path: the model's folder; it is created if it does not exist.
        recipe: how a picture becomes the model's input.
        version: the name of the version folder, at least 1.
        labels: the class names in order, for `assets.extra/labels.txt`; empty: no such file.
        extras: further text files of `assets.extra/` by name, such as a licence.
        force: replace an existing version instead of refusing.

    Raises:
        ExportFailed: the version exists, the number of labels is wrong, or the model does not return
            `float[n, classes]`.
    """
    with version_folder(base_path, version, force=force) as folder:
        signature = signature_of(model, recipe)
        outputs = signature.structured_outputs.values()
        sizes = {each.shape[-1] for each in outputs if each.shape.rank and each.dtype.is_floating} - {None}
        if labels and len(labels) not in sizes:
            raise ExportFailed(f"{len(labels)} labels for {' or '.join(map(str, sorted(sizes)))} classes")
        # Only the function and the variables that it reads are saved, so that the SavedModel loads fast.
        root = tf.Module()
        if isinstance(model, tf.Module):
            root.model = model  # keeps its tables and assets
        root.variables_of_model = sorted(signature.graph.variables, key=lambda variable: str(variable.name))
        tf.saved_model.save(root, str(folder), signatures={"serving_default": signature})
        # The fingerprint has a random id, the only difference between two builds. Loaders do not need it.
        (folder / "fingerprint.pb").unlink(missing_ok=True)
        fit = PictureFit(recipe.size, recipe.fit, recipe.orient)
        write_extras(folder, labels, {**(extras or {}), FRONT_FILE: write_fit(fit)})
    return base_path / str(version)


def write_extras(folder: Path, labels: Sequence[str], extras: Mapping[str, str]) -> None:
    """Writes text files into `assets.extra/` of a version folder: `labels.txt`, if there are labels, and `extras`."""
    lines = "".join(f"{' '.join(label.split())}\n" for label in labels)
    for name, text in {**extras, **({"labels.txt": lines} if labels else {})}.items():
        extra = folder / "assets.extra" / name
        extra.parent.mkdir(exist_ok=True)
        extra.write_text(text, encoding="utf-8")


def check_free(base_path: Path, version: int, *, force: bool) -> Path:
    """Returns the path of the version's folder.

    Raises:
        ExportFailed: the folder exists and `force` is false, or the version is below 1.
    """
    target = base_path / str(version)
    if version < 1:
        raise ExportFailed(f"version {version} isn't a whole number from 1")
    if target.exists() and not force:
        raise ExportFailed(f"{target} exists; export another version, or replace it with --force")
    return target


def signature_of(model: Callable[[Any], Any], recipe: Recipe) -> Any:
    """Returns the concrete function `images: string[n] → {predict: int64[n], probability: float32[n, classes]}`."""

    def serve(images: Any) -> dict[str, Any]:
        x = model_input(images, recipe)
        output = call(model, x)
        if recipe.answers == "values":
            return {name: tf.identity(value, name=name) for name, value in named_outputs(model, output).items()}
        output = tf.convert_to_tensor(output)
        if output.shape.rank != 2 or output.shape[1] is None or not output.dtype.is_floating:
            raise ExportFailed(f"the model gives {output.dtype.name}{output.shape}, not float[n, classes]")
        scores = tf.cast(output, tf.float32)
        probability = tf.nn.softmax(scores) if recipe.answers == "logits" else scores
        probability = tf.identity(probability, name="probability")
        return {"predict": tf.argmax(probability, axis=1, name="predict"), "probability": probability}

    signature = [tf.TensorSpec([None], tf.string, name="images")]
    return tf.function(serve, input_signature=signature, autograph=False).get_concrete_function()


def call(model: Callable[[Any], Any], x: Any) -> Any:
    """Calls a model as it is called to predict."""
    return model(x, training=False) if isinstance(model, tf.keras.layers.Layer) else model(x)


def named_outputs(model: Any, output: Any) -> dict[str, Any]:
    """The outputs of a call by name: the keys of a dict, or Keras' own names, or `output_0`, `output_1` and so on."""
    if isinstance(output, Mapping):
        return {str(name): tf.convert_to_tensor(value) for name, value in output.items()}
    values = output if isinstance(output, (list, tuple)) else [output]
    names = getattr(model, "output_names", None) or ()
    are_apart = len(set(names)) == len(values)
    return {names[at] if are_apart else f"output_{at}": tf.convert_to_tensor(each) for at, each in enumerate(values)}


@contextmanager
def version_folder(base_path: Path, version: int, *, force: bool) -> Iterator[Path]:
    """Context manager for a hidden folder that is renamed to the version's folder at the end.

    If the block raises, the hidden folder is deleted and an existing version stays as it was.

    Raises:
        ExportFailed: as `check_free`, or the folder cannot be renamed.
    """
    target = check_free(base_path, version, force=force)
    base_path.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{version}-", suffix=".building", dir=base_path))
    built, old = hidden / "new", hidden / "old"
    try:
        built.mkdir()  # mkdtemp's mode lets nobody else read; this one follows the umask
        yield built
        check_free(base_path, version, force=force)  # another export may have written it meanwhile
        if target.exists():
            target.rename(old)
        try:
            built.rename(target)
        except OSError as err:
            if old.exists():
                old.rename(target)
            raise ExportFailed(f"{target} can't be put in its place: {err}") from err
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def load_reference(reference: str) -> Any:
    """Returns a user's model: the model of a `.keras` file, or what the factory of "package.module:factory" returns.

    The factory is imported as a program in the current folder would import it: that folder comes first on the import
    path and stays on it, so a user's own package may be called `models` or `service`. Both kinds of reference may run
    code: use only your own factories, and files that you trust.

    Raises:
        ExportFailed: there is no such file, module or factory.
    """
    if reference.endswith(KERAS_FILES):
        return _load_keras(reference)
    module, colon, factory = reference.partition(":")
    if not (module and colon and factory):
        raise ExportFailed(
            f"{reference!r} is neither package.module:factory nor a Keras file ({', '.join(KERAS_FILES)})"
        )
    here = str(Path.cwd())
    others = [entry for entry in sys.path if entry != here]
    sys.path[:] = [here, *(entry for entry in others if Path(entry).resolve() != _CHECKOUT)]
    try:
        try:
            build = getattr(import_module(module), factory)
        except (ImportError, AttributeError) as err:
            raise ExportFailed(f"{reference}: {err}") from err
        return build()
    finally:
        sys.path[:] = [here, *others]


def _load_keras(file: str) -> Any:
    """Returns the model in a file of Keras."""
    if not Path(file).is_file():
        raise ExportFailed(f"{file} isn't a file")
    try:
        return tf.keras.models.load_model(file, compile=False)
    except Exception as err:
        missing = re.search(r"Could not locate [^.]*|Unknown layer: [^.]*", str(err))
        words = " ".join((missing[0] if missing else str(err)).split())[:200]
        raise ExportFailed(
            f"Keras {tf.keras.__version__} cannot load it: {words}. If it has layers of your own, or was saved by another "
            "Keras, export what a function of yours returns, package.module:factory, or its model.export() with --from"
        ) from err


def export_from_reference(
    reference: str,
    base_path: Path,
    recipe: Recipe,
    *,
    version: int = 1,
    labels: Sequence[str] = (),
    force: bool = False,
) -> Path:
    """Exports the model that `load_reference` finds, as `export_image_model` does."""
    check_free(base_path, version, force=force)
    return export_image_model(load_reference(reference), base_path, recipe, version=version, labels=labels, force=force)
