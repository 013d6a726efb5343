"""The commands beside `serve`: export, check, profile, and the tables of the docs."""
