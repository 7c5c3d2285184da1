"""Who may talk to whom: the model, the index over the catalog, and `authorize`."""
