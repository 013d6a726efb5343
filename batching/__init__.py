"""The scheduler: merges waiting rows into batches. Standard library only; knows nothing of HTTP, numpy or TensorFlow."""
