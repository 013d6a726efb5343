"""Models over time: loads, warms up, serves and unloads their versions."""
