"""Models over time: which versions there are, loading, warming up, serving and unloading them."""
