"""The chart, and the parts of it that are made from the code."""
