"""TensorFlow itself: the one place that imports it, sessions, custom ops, and the memory of the process."""
