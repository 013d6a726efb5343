"""The commands other than `serve`, one module each, with DESCRIPTION, `add_flags` and `run`; and the doc tables."""
