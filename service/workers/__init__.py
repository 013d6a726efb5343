"""Several worker processes behind one address: the supervisor, its channel to each, and their metrics summed."""
