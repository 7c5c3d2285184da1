"""Stages, meshes and captures of the wire, for demo, tests and bench."""
