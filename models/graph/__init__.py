"""Analyses a GraphDef without running it: what is reachable, where strings flow, which nodes decode pictures."""
