"""TensorFlow Serving's REST dialect under /v1/."""
