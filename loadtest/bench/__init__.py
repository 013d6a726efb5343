"""Throughput and latency of Darkroom, compared with its physical limit, with other servers, and between commits."""
