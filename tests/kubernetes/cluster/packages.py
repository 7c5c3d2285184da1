"""containerd, runc, CNI's plugins and busybox: Debian's packages, unpacked beside the system and not installed in it.

A machine may have another containerd (Docker's), which must neither go nor be used.
"""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.image.packages import candidates, fetch, run

PACKAGES = ("busybox-static", "containerd", "containernetworking-plugins", "runc")
KEPT = 2


def unpack(cache: Path, say: Callable[[str], None], packages: Sequence[str] = PACKAGES) -> Path:
    """The root of a file system with what the packages hold, without the rest of one. Raises PackageError, OSError.

    Who calls it has `cache` for himself.
    """
    described = candidates(packages)
    root = cache / f"packages-{hashlib.sha256(described.encode()).hexdigest()[:16]}"
    if not root.is_dir():
        say(f"fetching {', '.join(packages)}")
        unfinished, fetched = cache / "unpacking", cache / "fetching"
        for left in (unfinished, fetched):
            if left.exists():  # of somebody who was killed
                shutil.rmtree(left)
            left.mkdir()
        for archive in fetch(packages, fetched):
            run("dpkg-deb", "--extract", str(archive), str(unfinished))
        shutil.rmtree(fetched)
        unfinished.rename(root)
    root.touch()
    for old in sorted(cache.glob("packages-*"), key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(old)
    return root
