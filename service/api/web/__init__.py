"""The pages and what they load, vendored: the service works with no internet."""
