"""Rewrites a graph for speed and proves that its answers stay the same. The result is an artifact."""
