"""Simple TensorFlow Serving's dialect: `POST /`."""
