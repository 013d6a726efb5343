"""TensorFlow itself: its import, sessions, custom ops, and the memory of the process and of GPUs."""
