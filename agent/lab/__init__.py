"""Stages, meshes and recordings of the wire, for demo, tests and bench."""
