"""What `quietwire install` does."""

import sys
from importlib.metadata import version

from agent.cli.work.exits import EXIT_USAGE, fail
from agent.cli.work.install import Installation, objects
from agent.flags import ConfigError


def install(namespace: str, image: str, trust_domain: str, *, definitions: bool) -> None:
    """Prints the objects."""
    wanted = Installation(namespace, image or f"localhost/quietwire:{version('quietwire')}", trust_domain)
    try:
        sys.stdout.write(objects(wanted, definitions=definitions))
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
