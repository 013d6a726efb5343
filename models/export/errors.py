"""What can go wrong while a SavedModel is built. No client ever sees these errors.

ExportFailed
├── UnknownZooModel   no model of that name ships
└── MissingPackage    a package that only building needs isn't installed
"""


class ExportFailed(Exception):
    """A SavedModel wasn't written; nothing is left where it would have stood."""


class UnknownZooModel(ExportFailed):
    """No model of that name ships."""


class MissingPackage(ExportFailed):
    """A package that only building a model needs isn't installed; the message names it and the remedy."""
