"""Symbolic links on the way to a manifest: where each of them stands, and watches there, so that none moves unseen."""

import logging
import os
from collections.abc import Iterable

from asyncinotify import Event, Inotify, Mask, Watch

log = logging.getLogger("quietwire.catalog")

MAX_LINKS = 40
"""Links that are followed for one path, as by the kernel (path_resolution(7))."""
MAX_WATCHED = 256
"""Directories that are watched besides that of the manifests."""

WATCHED = (
    Mask.CLOSE_WRITE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE | Mask.CREATE | Mask.ATTRIB
    | Mask.DELETE_SELF | Mask.MOVE_SELF
)  # fmt: skip
SELF = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.IGNORED
"""Of events about the directory that is watched, and not about something in it."""

Entry = tuple[str, str]
"""A directory without links in its path, and a name in it."""


def entries(path: str) -> list[Entry]:
    """Each link on the way to what `path` names, and last what it names, or the first that is not there.

    An absolute path. Whoever makes it name something else changes one of these, or renames a directory above it.
    """
    found: list[Entry] = []
    here, ahead, links = "/", path.split("/")[::-1], 0
    while ahead:
        name = ahead.pop()
        if name in {"", "."}:
            continue
        if name == "..":
            here = os.path.dirname(here)
            continue
        there = os.path.join(here, name)
        try:
            target = os.readlink(there)
        except OSError:  # no link, or not there, or not ours to see: the walk ends where nothing more can be known
            if not ahead or not os.path.lexists(there):
                return [*found, (here, name)]
            here = there
            continue
        found.append((here, name))
        links += 1
        if links > MAX_LINKS:
            return found
        if target.startswith("/"):
            here = "/"
        ahead += target.split("/")[::-1]
    return found


class Watches:
    """The watch on a directory of manifests, and those where links on the way to it and out of it stand and lead."""

    def __init__(self, inotify: Inotify, directory: str) -> None:
        self._inotify = inotify
        self._main = inotify.add_watch(directory, WATCHED)
        self._others: dict[int, tuple[Watch, set[bytes]]] = {}
        """By descriptor: the watch, and the names that matter there."""
        self._unwatched = ""

    def follow(self, wanted: Iterable[Entry]) -> None:
        """Watches these from now on, and no others. What cannot be watched is left to the look at signatures."""
        by_directory: dict[str, set[bytes]] = {}
        for directory, name in wanted:
            by_directory.setdefault(directory, set()).add(os.fsencode(name))
        now: dict[int, tuple[Watch, set[bytes]]] = {}
        why = f"more than {MAX_WATCHED} directories" if len(by_directory) > MAX_WATCHED else ""
        for directory, names in sorted(by_directory.items())[:MAX_WATCHED]:
            try:
                watch = self._inotify.add_watch(directory, WATCHED)
            except OSError as error:
                why = f"{directory}: {error.strerror}"
                continue
            if watch.wd != self._main.wd:
                now.setdefault(watch.wd, (watch, set()))[1].update(names)
        for wd, (watch, _) in self._others.items():
            if wd not in now:
                self._forget(watch)
        self._others = now
        if why and why != self._unwatched:
            log.warning("not all links of manifests are watched (%s): changes there are seen a second later", why)
        self._unwatched = why

    def _forget(self, watch: Watch) -> None:
        try:
            self._inotify.rm_watch(watch)
        except OSError:
            return  # its directory went, and the watch with it

    def ended(self, event: Event) -> bool:
        """Whether the directory of manifests itself is gone or replaced."""
        return bool(event.mask & SELF) and event.watch is not None and event.watch.wd == self._main.wd

    def concerns(self, event: Event) -> bool:
        """Whether an event may be about a manifest: all of its own directory, and of others what names one."""
        watch = event.watch
        if watch is None or watch.wd == self._main.wd:
            return True  # one without a watch says that events were lost
        _, names = self._others.get(watch.wd, (None, set[bytes]()))
        return bool(event.mask & SELF) or (event.name is not None and os.fsencode(event.name) in names)
