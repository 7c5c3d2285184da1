"""The container image: Debian's packages, this project's wheel and its locked dependencies, without a registry."""


class ImageError(Exception):
    """There is no image; says what is missing or wrong, and what to do."""
