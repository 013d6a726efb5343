"""Looks at a GraphDef and runs nothing: what is reachable, where strings flow, which nodes decode pictures."""
