"""What of the virtual environment is in the image: the distributions that the lock file names, in these versions.

pip verified their hashes when it installed them.
"""

import re
import shutil
from collections.abc import Callable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from deploy.image import ImageError


class LockError(ImageError):
    """The environment is not what the lock file says; names the distribution, and what to do."""


def locked(text: str) -> dict[str, str]:
    """Names and versions of a requirements file, without those that are for other machines."""
    found = {}
    for line in text.splitlines():
        if re.match(r"[A-Za-z0-9]", line):
            requirement = Requirement(line.rstrip(" \\"))
            if requirement.marker is None or requirement.marker.evaluate():
                found[requirement.name] = next(iter(requirement.specifier)).version
    return found


def copy(lock: dict[str, str], to: Path, is_kept: Callable[[str], bool], prefix: str) -> None:
    """Copies each distribution's files; `prefix` is what `to` is called in the image. Raises LockError, OSError."""
    for name, version in sorted(lock.items()):
        found = _found(name)
        if found.version != version:
            raise LockError(
                f"{name} {found.version} is installed, and requirements.lock says {version}: run `make image`"
            )
        for file in found.files or ():
            if ".." in file.parts or not is_kept(f"{prefix}/{file}"):
                continue
            target = to / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(str(file.locate())), target)


def _found(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise LockError(f"{name} is not installed, and requirements.lock names it: run `make image`") from None
