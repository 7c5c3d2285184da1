"""A real Kubernetes on this machine, made of what package registries serve: programs, packages, nodes."""
