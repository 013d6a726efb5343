"""One program for each question about how models are made, loaded and exchanged."""
