"""`python -m deploy.image`: makes the image of this checkout, says its size, and puts it into build/.

`--root DIRECTORY` makes its file system alone.
"""

import os
import shutil
import sys
import time
from pathlib import Path

from deploy.image import ImageError, build


def main(words: list[str]) -> int:
    """Exit status 1, with the reason, where there is no image."""
    started = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - started:5.1f} s  {what}", file=sys.stderr, flush=True)

    try:
        match words:
            case []:
                image = build.make(say)
                to = build.PROJECT / "build" / f"quietwire-{build.version()}.tar"
                to.parent.mkdir(exist_ok=True)
                unfinished = to.with_suffix(".unfinished")
                shutil.copyfile(image.archive, unfinished)
                unfinished.rename(to)
                print(f"{to.relative_to(build.PROJECT)}: {image.name}, {image.size}")
            case ["--root", directory]:
                build.make_root(Path(directory), say)
            case _:
                print(__doc__, file=sys.stderr)
                return os.EX_USAGE
    except (ImageError, OSError) as error:
        print(f"no image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
