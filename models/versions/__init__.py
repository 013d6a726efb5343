"""Finds the versions of a model on disk, prepares and caches them, and says which to load and which to unload."""
