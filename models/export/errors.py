"""The errors of an export. Clients of a server never see them.

ExportFailed
├── UnknownZooModel   the zoo has no model of that name
└── MissingPackage    a package that the build needs isn't installed
"""


class ExportFailed(Exception):
    """The SavedModel wasn't written, and no part of it is left."""


class UnknownZooModel(ExportFailed):
    """The zoo has no model of that name."""


class MissingPackage(ExportFailed):
    """A package that the build needs isn't installed. The message names it and the remedy."""
