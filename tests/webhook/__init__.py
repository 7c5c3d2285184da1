"""Admission of a cluster's objects."""
