"""Manifests: bytes to documents, and what is wrong with them, and where."""
