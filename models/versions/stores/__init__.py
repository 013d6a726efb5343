"""Mirrors the versions of a model from an object store or an archive into a folder, for the folder's own source."""
