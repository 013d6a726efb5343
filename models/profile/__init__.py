"""Measures which batch size, threads and calls in flight suit a model on this machine."""
