"""Darkroom puts a TensorFlow image model behind HTTP. The import root: `batching`, `models` and `service` are links."""
