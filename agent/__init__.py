"""Quietwire's node agent. One vocabulary, in code, documents, metrics and messages: docs/words.md.

What may import what is in pyproject.toml (`tool.importlinter`), and what is where in ARCHITECTURE.md.
"""
