"""Carries the scheduler's decisions to the event loop and the backend, and their results back to the callers."""
