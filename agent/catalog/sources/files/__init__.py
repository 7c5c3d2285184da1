"""A directory of manifests, followed live."""
