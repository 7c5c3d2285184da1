"""The demo on a real cluster: `python -m tests.kubernetes.demo`."""
