"""What the authority's verbs do: one runs it, the others act on its state directory."""
