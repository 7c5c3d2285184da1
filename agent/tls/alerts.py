"""Fatal alerts as whole records, for refusals before any TLS machine exists: RFC 8446, sections 5.1 and 6."""


def fatal(description: int) -> bytes:
    """The plaintext record of one fatal alert."""
    return bytes((21, 3, 3, 0, 2, 2, description))


PROTOCOL_VERSION = fatal(70)
NO_APPLICATION_PROTOCOL = fatal(120)
