"""Load tests, benchmarks and experiments for a Darkroom server."""
