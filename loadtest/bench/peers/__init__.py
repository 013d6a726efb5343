"""The other model servers of the benchmark; each file runs in that server's own environment under .bench/."""
