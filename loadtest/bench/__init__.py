"""Throughput and latency of Darkroom: beside its physical limit, beside other model servers, commit by commit."""
