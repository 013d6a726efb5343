"""Rewrites a graph for speed and proves each rewrite, in a child process; the result is an artifact."""
