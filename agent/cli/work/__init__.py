"""What each verb does once it is called: here is everything that is heavy to import.

The modules above say what can be typed, and import from here inside of their functions only: so `--help` is quick.
"""
