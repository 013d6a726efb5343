"""Measuring instruments: server processes, latency histograms, tables, and the machine that a figure was measured on."""
