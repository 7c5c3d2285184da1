"""Where a catalog comes from."""
