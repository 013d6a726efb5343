"""Programs that each answered one question; docs/benchmarks holds the figures that they gave."""
