"""The `kubernetes` source: an API server's objects, followed."""
