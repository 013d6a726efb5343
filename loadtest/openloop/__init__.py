"""Open-loop load: requests arrive at a fixed rate, whether or not the server keeps up."""
