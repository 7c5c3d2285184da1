"""The `files` source: a directory of manifests, followed live; what cannot be used is refused, file and line said.

What was last good stays in force: a document that cannot be parsed keeps the objects that it had, an object with a
fault keeps its former version, and everything else in the directory is loaded. A fault never takes an object away, nor
gives its name or its address to another: whoever has one keeps it. Documents, and the items of a `List`, are told
apart by their bytes: a change of one object in a file of thousands parses that one.

Write a file elsewhere and rename it into the directory. One that is written in place is left alone, and its former
content stays in force, for as long as somebody has it open for writing.
"""

import asyncio
import errno
import fcntl
import hashlib
import logging
import os
import signal
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from asyncinotify import Inotify, Mask
from msgspec import Struct

from agent.catalog.document import MAX_FILE, Budget, Field, documents
from agent.catalog.fault import Fault, FaultError
from agent.catalog.holders import Holders
from agent.catalog.join import Assembly
from agent.catalog.key import ObjectKey
from agent.catalog.memory import Known, Memory
from agent.catalog.model import CatalogChange
from agent.catalog.objects import RawObject, decode, key_of
from agent.catalog.parts import parts
from agent.policy.objects import BrokenServer
from agent.tasks import spawn

log = logging.getLogger("quietwire.catalog")

SUFFIXES = (".yaml", ".yml", ".json")
QUIET_SECONDS = 0.02
"""A burst of events is over when nothing has come for this long."""
BURST_SECONDS = 0.1
"""Longest that a burst may hold a change back."""
RETRY_SECONDS = 1.0
"""How often a directory that is gone is looked for."""
SETTLED_NS = 50_000_000
"""A file that changed less than this before it was read may change again without another time stamp."""

_WATCHED = (
    Mask.CLOSE_WRITE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE | Mask.CREATE | Mask.ATTRIB
    | Mask.DELETE_SELF | Mask.MOVE_SELF
)  # fmt: skip

MEMORY_SECONDS = 1.0
"""How long a change may wait until it is written down as last good."""

_Signature = tuple[int, int, int, int]
_UNSETTLED: _Signature = (0, 0, 0, 0)
"""Of a file that must be read again the next time."""


class _Decoded(Struct, frozen=True):
    """What one document gave; `line` counts within its part of the file."""

    line: int
    key: ObjectKey | None
    found: RawObject | None = None
    fault: str | None = None
    stand_in: RawObject | None = None


_Lines = dict[ObjectKey, tuple[int, RawObject]]
"""Objects, each with its line."""


class _Part(Struct, frozen=True):
    """One document of a file, or one item of a list. `kept` is what was in its place before it could not be read."""

    digest: bytes
    decoded: tuple[_Decoded, ...] = ()
    fault: tuple[int, str] | None = None
    kept: _Lines = {}

    @property
    def broken(self) -> bool:
        """Whether it is not even known which objects it is about."""
        return self.fault is not None or any(each.key is None for each in self.decoded)

    @property
    def keys(self) -> list[ObjectKey]:
        """The objects that it is known to be about."""
        return [*(each.key for each in self.decoded if each.key is not None), *self.kept]


class _File(Struct):
    """What one file gave when it was last read: good objects, and what stands in where none is known to be good."""

    signature: _Signature
    objects: _Lines
    stand_ins: _Lines = {}
    faults: tuple[Fault, ...] = ()
    parts: tuple[_Part, ...] = ()


class FilesSource:
    """Manifests in a directory.

    `on_change` is called when something has changed: with the change of the catalog (None where only faults have), and
    with every fault that there is. What was last good is remembered in `memory`, where one is given.
    """

    def __init__(
        self,
        directory: Path,
        on_change: Callable[[CatalogChange | None, tuple[Fault, ...]], None],
        memory: Memory | None = None,
    ) -> None:
        self._directory = directory
        self._on_change = on_change
        self._memory = memory
        self._files: dict[str, _File] = {}
        self._holders = Holders()
        self._assembly = Assembly()
        self._faults: tuple[Fault, ...] = ()
        self._to_remember = asyncio.Event()
        self._first = True
        """Nothing is known of before: what cannot be read closes what it could be about."""

    def load(self) -> None:
        """Reads the directory now, on the calling thread."""
        self._publish(*self._scan_first())

    async def start(self) -> None:
        """The same, with the reading on a thread."""
        self._publish(*await asyncio.to_thread(self._scan_first))

    def _scan_first(self) -> tuple[CatalogChange | None, tuple[Fault, ...]]:
        known = None if self._memory is None else self._memory.load()
        if known is not None:
            self._first = False
            self._files = {name: _File(_UNSETTLED, objects) for name, objects in known.items()}
        return self._scan()

    async def run(self) -> None:
        """Follows the directory until cancelled. Parsing is done on a thread."""
        writer = None if self._memory is None else spawn(self._remember(self._memory), name="catalog memory")
        try:
            while True:
                try:
                    with Inotify() as inotify:
                        inotify.add_watch(self._directory, _WATCHED)
                        self._publish(*await asyncio.to_thread(self._scan))
                        await self._follow(inotify)
                except OSError as error:
                    log.error("%s cannot be watched (%s): the last good state stays in force", self._directory, error)
                    self._publish(*await asyncio.to_thread(self._scan))
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            if writer is not None:
                writer.cancel()
            if self._memory is not None and self._to_remember.is_set():
                self._memory.save(self._known())

    async def _follow(self, inotify: Inotify) -> None:
        """Returns when the directory itself is gone or replaced."""
        loop = asyncio.get_running_loop()
        gone = False
        while not gone:
            event = await inotify.get()
            gone = bool(event.mask & (Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.IGNORED))
            until = loop.time() + BURST_SECONDS
            while not gone:
                try:
                    async with asyncio.timeout(min(QUIET_SECONDS, max(until - loop.time(), 0))):
                        event = await inotify.get()
                except TimeoutError:
                    break
                gone = bool(event.mask & (Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.IGNORED))
            self._publish(*await asyncio.to_thread(self._scan))

    async def _remember(self, memory: Memory) -> None:
        while True:
            await self._to_remember.wait()
            self._to_remember.clear()
            await asyncio.to_thread(memory.save, self._known())
            await asyncio.sleep(MEMORY_SECONDS)

    def _known(self) -> Known:
        return {name: file.objects for name, file in self._files.items()}

    def _publish(self, change: CatalogChange | None, faults: tuple[Fault, ...]) -> None:
        if change is not None or faults != self._faults:
            self._faults = faults
            self._on_change(change, faults)

    def _scan(self) -> tuple[CatalogChange | None, tuple[Fault, ...]]:
        files = dict(self._files)
        unread: list[Fault] = []
        try:
            names = sorted(
                entry.name
                for entry in os.scandir(self._directory)
                if entry.name.endswith(SUFFIXES) and not entry.name.startswith(".")
            )
        except OSError as error:
            unread.append(Fault(str(self._directory), 0, "", f"cannot be read: {error.strerror}", last_good=True))
        else:
            files = {}
            for name in names:
                shown = _shown(name)
                read = _read(self._directory / name, shown, self._files.get(shown), first=self._first)
                if read is not None:
                    files[shown] = read
            self._first = False
        if any(self._files.get(name) is not file for name, file in files.items()) or len(files) != len(self._files):
            self._to_remember.set()  # also where an object has only moved from one file to another
        self._files = files
        objects, faults = _merge(files, self._holders)
        return self._assembly.update(objects), tuple(sorted((*unread, *faults)))


class Loaded(Struct, frozen=True):
    """What some files say: every object, where each stands, and what cannot be used."""

    objects: dict[ObjectKey, RawObject]
    places: dict[ObjectKey, tuple[str, int]]
    faults: tuple[Fault, ...]


def load(paths: Iterable[Path]) -> Loaded:
    """Reads files once, and directories with the manifests in them, without following anything."""
    files: dict[str, _File] = {}
    missing: list[Fault] = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        for each in inside:
            if path.is_dir() and (not each.name.endswith(SUFFIXES) or each.name.startswith(".")):
                continue
            shown = _shown(str(each))
            read = _read(each, shown, None, first=False)
            if read is None:
                missing.append(Fault(shown, 0, "", "there is no such file"))
            else:
                files[shown] = read
    objects, faults = _merge(files, Holders())
    places: dict[ObjectKey, tuple[str, int]] = {}
    for name, file in files.items():
        for key, (line, _) in (file.stand_ins | file.objects).items():
            places.setdefault(key, (name, line))
    return Loaded(objects, places, tuple(sorted((*missing, *faults))))


def _shown(name: str) -> str:
    """A file's name as text: one that is no UTF-8 is escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _merge(files: Mapping[str, _File], holders: Holders) -> tuple[dict[ObjectKey, RawObject], list[Fault]]:
    """Every object once, and no address twice."""
    effective = {name: file.stand_ins | file.objects for name, file in files.items()}
    objects, faults = holders.settle(effective)
    return objects, [*(fault for file in files.values() for fault in file.faults), *faults]


def _read(path: Path, name: str, former: _File | None, *, first: bool) -> _File | None:
    """What one file gives; None where it is gone. `name` is what faults call it."""
    known = former or _File(_UNSETTLED, {})
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None  # went between the listing and now
    except OSError as error:
        return _unread(known, name, f"cannot be read: {error.strerror}")
    with os.fdopen(fd, "rb") as file:
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return _unread(known, name, "is no regular file")
            signature = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
            if former is not None and former.signature == signature:
                return former
            if status.st_size > MAX_FILE:
                return _unread(known, name, f"the file has {status.st_size} bytes, over the limit of {MAX_FILE}")
            if _is_being_written(fd):
                return _unread(known, name, "is being written; what it said before stays in force until it is closed")
            if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < SETTLED_NS:
                signature = _UNSETTLED
            data = file.read()
            budget = Budget(len(data))
        except OSError as error:
            return _unread(known, name, f"cannot be read: {error.strerror}")
        except FaultError as fault:
            return _unread(known, name, fault.reason)
    reading = _Reading(name, known, first=first)
    for number, (before, part) in enumerate(parts(data), 1):
        reading.take(part, before, number, budget)
    return reading.file(signature)


def _unread(known: _File, name: str, reason: str) -> _File:
    fault = Fault(name, 0, "", reason, last_good=bool(known.objects))
    return _File(_UNSETTLED, known.objects, known.stand_ins, (fault,), known.parts)


def _is_being_written(fd: int) -> bool:
    """Whether somebody has the file open for writing: then the kernel gives no read lease (fcntl(2), F_SETLEASE)."""
    try:
        # Whoever opens it in the moment of the lease breaks it, and the holder gets a signal: one that is ignored.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN  # any other: this file system has no leases, and rename is the way
    return False


class _Reading:
    """One file while it is read, part by part."""

    def __init__(self, name: str, former: _File, *, first: bool) -> None:
        self._name = name
        self._former = former
        self._first = first
        self._by_digest = {part.digest: part for part in former.parts}
        self._parts: list[_Part] = []
        self._places: list[tuple[int, int]] = []
        """Of each part: the lines before it, and its number."""

    def take(self, part: bytes, before: int, number: int, budget: Budget) -> None:
        """Takes the next part, which `before` lines of the file and `number` - 1 parts precede."""
        digest = hashlib.blake2b(part, digest_size=16).digest()
        known = self._by_digest.get(digest)
        if known is None:
            try:
                decoded = tuple(_decode(document.line, document) for document in documents(part, budget))
                known = _Part(digest, decoded)
            except FaultError as fault:
                known = _Part(digest, fault=(fault.line, fault.reason))
        self._parts.append(known)
        self._places.append((before, number))

    def file(self, signature: _Signature) -> _File:
        """What it all comes to."""
        self._keep_what_broke()
        file = _File(signature, {}, {}, (), tuple(self._parts))
        faults: list[Fault] = []
        for part, (before, number) in zip(self._parts, self._places, strict=True):
            if part.fault is not None:
                where = f"document {number}: " if number > 1 else ""
                closed = self._stand_in_for_unread(file, part, number)
                line, reason = part.fault
                faults.append(Fault(self._name, before + line, "", f"{where}{reason}", bool(part.kept), closed=closed))
            for each in part.decoded:
                fault = self._put(file, part, each, before, number)
                if fault is not None:
                    faults.append(fault)
        for part in self._parts:
            for key, kept in part.kept.items():
                if key not in file.objects and key not in file.stand_ins:
                    file.objects[key] = kept
        file.faults = tuple(faults)
        return file

    def _keep_what_broke(self) -> None:
        """A part that became unreadable keeps what stood in its place: what vanished between unchanged neighbours."""
        fresh = [at for at, part in enumerate(self._parts) if part.broken and part.digest not in self._by_digest]
        if not fresh:
            return
        former, now = self._former.parts, self._parts
        begin = 0
        while begin < min(len(former), len(now)) and former[begin].digest == now[begin].digest:
            begin += 1
        end = 0
        while end < min(len(former), len(now)) - begin and former[-1 - end].digest == now[-1 - end].digest:
            end += 1
        vanished = former[begin : len(former) - end]
        keys = [key for part in vanished for key in part.keys] if former else list(self._former.objects)
        kept = {key: self._former.objects[key] for key in keys if key in self._former.objects}
        at = fresh[0]
        self._parts[at] = _Part(now[at].digest, now[at].decoded, now[at].fault, kept)

    def _put(self, file: _File, part: _Part, each: _Decoded, before: int, number: int) -> Fault | None:
        key, line = each.key, before + each.line
        if key is None:
            closed = self._stand_in_for_unread(file, part, number)
            return Fault(self._name, line, "", each.fault or "", bool(part.kept), closed=closed)
        if key in file.objects or key in file.stand_ins:
            return Fault(self._name, line, str(key), "the object comes twice in this file")
        if each.fault is None:
            if each.found is not None:
                file.objects[key] = (line, each.found)
            return None
        good = self._former.objects.get(key)
        if good is not None:
            file.objects[key] = good
        elif each.stand_in is not None:
            file.stand_ins[key] = (line, each.stand_in)
        closed = good is None and each.stand_in is not None
        return Fault(self._name, line, str(key), each.fault, last_good=good is not None, closed=closed)

    def _stand_in_for_unread(self, file: _File, part: _Part, number: int) -> bool:
        """At the first start nobody knows what an unreadable document forbids: every default is closed until it is."""
        place = f"{self._name} document {number}"
        key = ObjectKey("Server", "", place)
        if not part.kept and (self._first or key in self._former.stand_ins):
            file.stand_ins[key] = (0, BrokenServer("", place))
            return True
        return False


def _decode(line: int, document: Field) -> _Decoded:
    key: ObjectKey | None = None
    try:
        key = key_of(document)
        return _Decoded(line, key, decode(key, document))
    except FaultError as fault:
        return _Decoded(fault.line or line, key, fault=fault.reason, stand_in=fault.stand_in)
    except Exception as error:  # an object that nobody thought of must not end all others
        log.exception("a manifest could not be read by a fault of ours")
        return _Decoded(line, key, fault=f"cannot be used, by a fault of the agent ({type(error).__name__}: {error})")
