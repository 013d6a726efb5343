"""Runs an artifact fast on this machine: runner threads, shards, a row prefix, CPU decode in front of a GPU."""
