"""Kubernetes' and Linkerd's objects: frozen values, and their decoders from documents."""
