"""What exists: the model, its look-ups, and the sources that fill it."""
