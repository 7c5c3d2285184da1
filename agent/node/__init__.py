"""One node's agent: the supervisor's process, and what it starts."""
