"""Reads a SavedModel from disk: signatures, labels, the original graph, and sample rows that a signature takes."""

FILE_NAME = "saved_model.pb"  # a version folder has a file of this name
