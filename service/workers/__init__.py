"""Several worker processes behind one address: their supervisor, the channels between them, and merged metrics."""
