"""The `files` source: a directory of manifests, followed live; what cannot be used is refused, file and line said.

Each file is fetched (here), read (`reading`) and settled with what was in force before (`standing`); what is in force
is joined (`join`). Documents, and the items of a `List`, are told apart by their bytes: a change of one object in a
file of thousands parses that one.

Write a file elsewhere and rename it into the directory. One that is written in place is left alone, and its former
content stays in force, for as long as somebody has it open for writing.

Links are followed, and watched where they stand and where they lead. What the kernel tells nobody (a directory high
above that is renamed, another name of the same file, another machine's writes) is seen by a look at all signatures,
once a second.
"""

import asyncio
import errno
import fcntl
import logging
import os
import signal
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
from asyncinotify import Event, Inotify
from msgspec import Struct

from agent.catalog.join import Assembly, Problem
from agent.catalog.remarks import Remarks
from agent.catalog.snapshot import CatalogChange
from agent.catalog.source import OnChange, SourceState
from agent.catalog.sources.files import links
from agent.catalog.sources.files.reading import Pieces, read
from agent.catalog.sources.files.remembered import FilesMemory
from agent.catalog.standing import Reading, Standings
from agent.manifests.document import MAX_FILE
from agent.manifests.fault import Fault, Remark
from agent.manifests.origin import Origin
from agent.objects.decode import RawObject
from agent.objects.key import ObjectKey
from agent.tasks import spawn

log = logging.getLogger("quietwire.catalog")

SUFFIXES = (".yaml", ".yml", ".json")
QUIET_SECONDS = 0.02
"""A burst of events is over when nothing has come for this long."""
BURST_SECONDS = 0.1
"""Longest that a burst may hold a change back."""
RETRY_SECONDS = 1.0
"""How often a directory that is gone is looked for."""
AGAIN_SECONDS = 0.25
"""How often a file that is about to be another is looked at, besides for events."""
PATIENCE_SECONDS = 2.0
"""A file may be open for writing, or a link lead to nothing, for so long before that is a fault."""
POLL_SECONDS = 1.0
"""How often the signatures of all files are looked at, where no event comes."""
POLL_PAUSES = 100
"""That look may take one part in so many of the time: over many files it comes less often."""
SETTLED_NS = 50_000_000
"""A file that changed less than this before it was read may change again without another time stamp."""

"""Faults, and remarks, that one look at the directory writes to the log."""
MEMORY_SECONDS = 1.0
"""How long a change may wait until it is written down as last good."""

_Signature = tuple[int, int, int, int, int]
_UNSETTLED: _Signature = (0, 0, 0, 0, 0)
"""Of a file that must be read again the next time."""


class _File(Struct, frozen=True):
    """What one file said when it was last looked at."""

    signature: _Signature = _UNSETTLED
    reading: Reading = Reading()
    pieces: Pieces = {}
    waiting_since: float | None = None
    """Monotonic seconds; None unless somebody has it open for writing, or it is a link to nothing."""
    again: bool = False
    """Whether it is looked at again soon, without an event."""
    seen: _Signature = _UNSETTLED
    """What stat(2) said when it was last looked at, read or not."""


class _Scan(Struct, frozen=True):
    """What a look at the directory came to."""

    change: CatalogChange | None
    faults: tuple[Fault, ...]
    remarks: tuple[Remark, ...] = ()
    place: tuple[int, int] | None = None
    """The directory that was read, by device and inode."""
    through: tuple[links.Entry, ...] = ()
    """Links on the way to it, and to the files in it, with where they lead."""
    news: bool = False
    """There is something to remember."""


class FilesSource:
    """Manifests in a directory.

    `on_change` is called when something has changed: with the change of the catalog (None where only faults have), and
    with every fault that there is. What was last good is remembered in `memory`, where one is given.
    """

    def __init__(
        self,
        directory: Path,
        on_change: OnChange,
        memory: FilesMemory | None = None,
    ) -> None:
        self._directory = directory
        self._on_change = on_change
        self._memory = memory
        self._files: dict[str, _File] = {}
        self._standings = Standings()
        self._assembly = Assembly()
        self._faults: tuple[Fault, ...] = ()
        self._remarks = Remarks("manifest: ", f"; quietwire authz check {directory} names all")
        self._to_remember = asyncio.Event()
        self._unwatched = ""
        """Why the directory cannot be watched, so that it is said once."""

    @property
    def state(self) -> SourceState:
        """See `Source`: a directory that cannot be read is a fault of its own."""
        return SourceState()

    def load(self) -> None:
        """Reads the directory now, on the calling thread."""
        self._publish(self._scan_first())

    async def start(self) -> None:
        """The same, with the reading on a thread."""
        self._publish(await asyncio.to_thread(self._scan_first))

    def _scan_first(self) -> _Scan:
        known = None if self._memory is None or self._files else self._memory.load()
        if known is not None:
            self._standings.restore(known)
        return self._scan()

    async def run(self) -> None:
        """Follows the directory until cancelled. Parsing is done on a thread."""
        needed = [spawn(self._follow_for_ever(), name="manifests")]
        if self._memory is not None:
            needed.append(spawn(self._remember(self._memory), name="catalog memory"))
        try:
            ended, _ = await asyncio.wait(needed, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()  # raises what it died of: neither goes on without the other
        finally:
            for task in needed:
                task.cancel()
            await asyncio.wait(needed)
            if self._memory is not None and self._to_remember.is_set():
                self._memory.save(self._standings.known)

    async def _follow_for_ever(self) -> None:
        while True:
            try:
                with Inotify() as inotify:
                    place = _place(self._directory)  # before the watch: what comes in between is noticed
                    watches = links.Watches(inotify, str(self._directory))
                    self._unwatched = ""
                    await self._follow(inotify, watches, place)
            except OSError as error:
                if str(error) != self._unwatched:
                    log.error("%s cannot be watched (%s): it is read every second", self._directory, error)
                self._unwatched = str(error)
                self._publish(await asyncio.to_thread(self._scan))
            await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self, inotify: Inotify, watches: links.Watches, place: tuple[int, int]) -> None:
        """Returns when the directory itself is gone or replaced."""
        clock = asyncio.get_running_loop().time
        pause = POLL_SECONDS
        while True:
            scan = await asyncio.to_thread(self._scan)
            self._publish(scan)
            watches.follow(scan.through)
            if scan.place != place:
                return
            again = any(file.again for file in self._files.values())
            looked = clock()
            while True:
                remaining = looked + (AGAIN_SECONDS if again else pause) - clock()
                event = await _event(inotify, remaining) if remaining > 0 else None
                if event is not None and watches.concerns(event):
                    break
                if event is None and (again or await asyncio.to_thread(self._stirred)):
                    break
                if event is None:
                    pause = max(POLL_SECONDS, POLL_PAUSES * (clock() - looked - pause))
                    looked = clock()
            until = clock() + BURST_SECONDS
            while event is not None:
                if watches.ended(event):
                    self._publish(await asyncio.to_thread(self._scan))
                    return
                event = await _event(inotify, min(QUIET_SECONDS, max(until - clock(), 0)))

    def _stirred(self) -> bool:
        """Whether any file is another than it was when it was last looked at, by its name or by its signature."""
        try:
            found = {_shown(entry.name): entry.path for entry in self._listed()}
        except OSError:
            return True
        return found.keys() != self._files.keys() or any(
            file.seen != _seen(found[name]) or (file.signature == _UNSETTLED and not file.reading.unread)
            for name, file in self._files.items()
        )

    def _listed(self) -> Iterator[os.DirEntry[str]]:
        """Each manifest. Raises OSError."""
        with os.scandir(self._directory) as inside:
            for entry in inside:
                if entry.name.endswith(SUFFIXES) and not entry.name.startswith("."):
                    yield entry

    async def _remember(self, memory: FilesMemory) -> None:
        while True:
            await self._to_remember.wait()
            self._to_remember.clear()
            if not await asyncio.to_thread(memory.save, self._standings.known):
                self._to_remember.set()
            await asyncio.sleep(MEMORY_SECONDS)

    def _publish(self, scan: _Scan) -> None:
        self._remarks.say(scan.remarks)
        if scan.news:
            self._to_remember.set()
        if scan.change is not None or scan.faults != self._faults:
            self._faults = scan.faults
            self._on_change(scan.change, scan.faults)

    def _scan(self) -> _Scan:
        try:
            place = _place(self._directory)
            found = sorted(self._listed(), key=lambda entry: entry.name)
        except OSError as error:
            unread = Fault(Origin(str(self._directory)), "", f"cannot be read: {error.strerror}", last_good=True)
            return _Scan(None, tuple(sorted({unread, *self._faults})), tuple(self._remarks.standing))
        files: dict[str, _File] = {}
        through = links.entries(_absolute(self._directory))
        if len(through) == 1:
            through = []  # no link leads to it, and the watch on itself is enough
        now = time.monotonic()
        for entry in found:
            shown = _shown(entry.name)
            file = _fetch(entry.path, self._files.get(shown, _File()), now)
            if file is not None:
                files[shown] = file
                if entry.is_symlink():
                    through += links.entries(_absolute(entry.path))
        self._files = files
        readings = {name: file.reading for name, file in files.items()}
        settled = self._standings.settle(readings)
        change = self._assembly.apply(settled.changed, settled.gone)
        faults = (
            *settled.faults,
            *(self._of_ours(key, each) for key, each in self._assembly.problems.items()),
            *conflicts(self._assembly, self._standings.origins),
        )
        return _Scan(change, tuple(sorted(faults)), _remarks(readings), place, tuple(through), settled.news)

    def _of_ours(self, key: ObjectKey, problem: Problem) -> Fault:
        origin = self._standings.origin(key)
        return Fault(origin, str(key), problem.reason, last_good=problem.kept, closed=not problem.kept)


async def _event(inotify: Inotify, seconds: float | None) -> Event | None:
    """The next event; None where it does not come in this time."""
    try:
        async with asyncio.timeout(seconds):
            return await inotify.get()
    except TimeoutError:
        return None


class Loaded(Struct, frozen=True):
    """What some files say: every object, where each stands, and what cannot be used."""

    objects: dict[ObjectKey, RawObject]
    origins: dict[ObjectKey, Origin]
    faults: tuple[Fault, ...]
    remarks: tuple[Remark, ...] = ()


def load(paths: Iterable[Path]) -> Loaded:
    """Reads files once, and directories with the manifests in them, without following anything.

    What cannot be read closes what it closes for an agent that starts with these files.
    """
    readings: dict[str, Reading] = {}
    missing: list[Fault] = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        for each in inside:
            if path.is_dir() and (not each.name.endswith(SUFFIXES) or each.name.startswith(".")):
                continue
            file = _fetch(each, _File(), 0)
            if file is None:
                missing.append(Fault(Origin(_shown(str(each))), "", "there is no such file"))
            else:
                readings[_shown(str(each))] = msgspec.structs.replace(file.reading, quiet=False)
    standings = Standings()
    settled = standings.settle(readings)
    faults = tuple(sorted((*missing, *settled.faults)))
    return Loaded(settled.changed, standings.origins(), faults, _remarks(readings))


def conflicts(assembly: Assembly, origins: Callable[[], Mapping[ObjectKey, Origin]]) -> list[Fault]:
    """Services and pods that have not every address outside that they claim: a fault of each, which names who has it.

    A pod that `authz check` made of a controller's template has no place of its own, and no fault.
    """
    lost = {**assembly.claims.conflicts(), **assembly.host_ports.conflicts()}
    where = origins() if lost else {}
    return [Fault(where[key], str(key), reason) for key, reason in lost.items() if key in where]


def _remarks(readings: Mapping[str, Reading]) -> tuple[Remark, ...]:
    return tuple(
        sorted(
            Remark(Origin(name, line), str(key), message)
            for name, reading in readings.items()
            for line, key, message in reading.remarks
        )
    )


def _shown(name: str) -> str:
    """A file's name as text: one that is no UTF-8 is escaped."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _absolute(path: str | Path) -> str:
    return os.path.join(os.getcwd(), path)


def _place(directory: Path) -> tuple[int, int]:
    """Which directory it is. Raises OSError."""
    status = os.stat(directory)
    return status.st_dev, status.st_ino


def _fetch(path: str | Path, former: _File, now: float) -> _File | None:
    """What a file says; None where it is gone. `now` is monotonic seconds."""
    try:
        if former.signature != _UNSETTLED and former.signature == _signature(os.stat(path)):
            return former
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        if not os.path.islink(path):
            return None  # went between the listing and now
        reason = "is a link to nothing: what it said before stays in force until it leads to a file, or is gone itself"
        return _waiting(former, reason, now, _failed(error), again=False)
    except OSError as error:
        return _unread(former, f"cannot be read: {error.strerror}", _failed(error), forbids=error.errno != errno.ENXIO)
    try:
        status = os.fstat(fd)
        seen = _signature(status)
        if not stat.S_ISREG(status.st_mode):
            return _unread(former, "is no regular file", seen, forbids=False)
        if status.st_size > MAX_FILE:
            return _unread(former, f"has {status.st_size} bytes, over the limit of {MAX_FILE}", seen)
        if _is_being_written(fd):
            reason = "is open for writing: what it said before stays in force until whoever writes it closes it"
            return _waiting(former, reason, now, seen, again=True)
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(MAX_FILE + 1)
        status = os.fstat(fd)
    except OSError as error:
        return _unread(former, f"cannot be read: {error.strerror}", _UNSETTLED)  # tried again at every look
    finally:
        os.close(fd)
    settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED_NS
    reading, pieces = read(data, former.pieces)
    seen = _signature(status)
    return _File(seen if settled and status.st_size == len(data) else _UNSETTLED, reading, pieces, seen=seen)


def _signature(status: os.stat_result) -> _Signature:
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev)


def _failed(error: OSError) -> _Signature:
    """What stands for the signature of what has none."""
    return (0, 0, 0, 0, -(error.errno or 1))


def _seen(path: str) -> _Signature:
    """A file's signature now, or why it has none."""
    try:
        return _signature(os.stat(path))
    except OSError as error:
        return _failed(error)


def _unread(former: _File, reason: str, seen: _Signature, *, forbids: bool = True) -> _File:
    return _File(_UNSETTLED, Reading(unread=reason, forbids=forbids), former.pieces, seen=seen)


def _waiting(former: _File, reason: str, now: float, seen: _Signature, *, again: bool) -> _File:
    """A file that is about to be another, and for a while that is no fault. `again` as the field, after that while."""
    since = now if former.waiting_since is None else former.waiting_since
    quiet = now - since < PATIENCE_SECONDS
    return _File(_UNSETTLED, Reading(unread=reason, quiet=quiet), former.pieces, since, again=again or quiet, seen=seen)


def _is_being_written(fd: int) -> bool:
    """Whether somebody has the file open for writing: then the kernel gives no read lease (fcntl(2), F_SETLEASE).

    Where it does, whoever opens the file to write waits until the descriptor is closed: nothing is read by halves.
    """
    try:
        # Whoever waits breaks the lease, and its holder gets a signal: one that is ignored.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN  # any other: this file system has no leases, and rename is the way
    return False
