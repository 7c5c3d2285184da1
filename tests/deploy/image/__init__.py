"""The container image, without a cluster."""
