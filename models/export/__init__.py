"""Makes SavedModels that take pictures, from Keras models and from the models that ship.

The names below are the API for users: `from darkroom.models.export import Recipe, export_image_model`. All but Recipe
are imported at their first use, because they import TensorFlow, which takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from darkroom.models.saved_model.front.recipe import Recipe

if TYPE_CHECKING:
    from darkroom.models.export.export import export_from_reference, export_image_model, load_reference

__all__ = ["Recipe", "export_from_reference", "export_image_model", "load_reference"]

if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("darkroom.models.export.export"), name)
