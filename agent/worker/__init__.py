"""One worker's process."""
