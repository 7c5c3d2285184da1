"""The `files` source: a directory of manifests, followed live; what cannot be used is refused, file and line said.

What was last good stays in force: a file with a syntax error keeps the objects that it had, an object with a
fault keeps its former version, and everything else in the directory is loaded. Documents are told apart by their bytes:
a change of one object in a file of thousands parses that one.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from asyncinotify import Inotify, Mask
from msgspec import Struct

from agent.catalog.document import Budget, Field, documents, parts
from agent.catalog.fault import Fault, FaultError
from agent.catalog.join import Assembly
from agent.catalog.key import ObjectKey
from agent.catalog.memory import Known, Memory
from agent.catalog.model import CatalogChange
from agent.catalog.objects import RawObject, RawPod, decode, key_of
from agent.tasks import spawn

log = logging.getLogger("quietwire.catalog")

SUFFIXES = (".yaml", ".yml", ".json")
QUIET_SECONDS = 0.02
"""A burst of events is over when nothing has come for this long."""
BURST_SECONDS = 0.1
"""Longest that a burst may hold a change back."""
RETRY_SECONDS = 1.0
"""How often a directory that is gone is looked for."""

_WATCHED = (
    Mask.CLOSE_WRITE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE | Mask.CREATE | Mask.ATTRIB
    | Mask.DELETE_SELF | Mask.MOVE_SELF
)  # fmt: skip

MEMORY_SECONDS = 1.0
"""How long a change may wait until it is written down as last good."""

_Signature = tuple[int, int, int]


class _Decoded(Struct, frozen=True):
    """What one document gave; `line` counts within its part of the file."""

    line: int
    key: ObjectKey | None
    found: RawObject | None = None
    fault: str | None = None
    stand_in: RawObject | None = None


_Parts = dict[bytes, tuple[_Decoded, ...]]
"""What the parts of a file gave, by digest."""


class _File(Struct):
    """What one file gave when it was last read."""

    signature: _Signature
    objects: dict[ObjectKey, tuple[int, RawObject]]
    faults: tuple[Fault, ...] = ()
    parts: _Parts = {}


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
        self._assembly = Assembly()
        self._faults: tuple[Fault, ...] = ()
        self._to_remember = asyncio.Event()

    def load(self) -> None:
        """Reads the directory now, on the calling thread."""
        if self._memory is not None:
            self._files = {name: _File((0, 0, 0), objects) for name, objects in self._memory.load().items()}
        self._publish(*self._scan())

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
        if change is not None:
            self._to_remember.set()
        if change is not None or faults != self._faults:
            self._faults = faults
            self._on_change(change, faults)

    def _scan(self) -> tuple[CatalogChange | None, tuple[Fault, ...]]:
        try:
            names = sorted(
                entry.name
                for entry in os.scandir(self._directory)
                if entry.name.endswith(SUFFIXES) and not entry.name.startswith(".")
            )
        except OSError as error:
            unread = Fault(str(self._directory), 0, "", f"cannot be read: {error.strerror}", last_good=True)
            objects, faults = _merge(self._files)
            return self._assembly.update(objects), tuple(sorted((unread, *faults)))
        files: dict[str, _File] = {}
        for name in names:
            read = _read(self._directory / name, name, self._files.get(name))
            if read is not None:
                files[name] = read
        self._files = files
        objects, faults = _merge(self._files)
        return self._assembly.update(objects), tuple(sorted(faults))


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
            read = _read(each, str(each), None)
            if read is None:
                missing.append(Fault(str(each), 0, "", "there is no such file"))
            else:
                files[str(each)] = read
    objects, faults = _merge(files)
    places: dict[ObjectKey, tuple[str, int]] = {}
    for name, file in files.items():
        for key, (line, _) in file.objects.items():
            places.setdefault(key, (name, line))
    return Loaded(objects, places, tuple(sorted((*missing, *faults))))


def _read(path: Path, name: str, former: _File | None) -> _File | None:
    """What one file gives; None where it is gone. `name` is what faults call it."""
    known = {} if former is None else former.objects
    try:
        status = path.stat()
        signature = (status.st_mtime_ns, status.st_size, status.st_ino)
        if former is not None and former.signature == signature:
            return former
        data = path.read_bytes()
    except FileNotFoundError:
        return None  # went between the listing and now
    except OSError as error:
        return _File((0, 0, 0), known, (Fault(name, 0, "", f"cannot be read: {error.strerror}", bool(known)),))
    try:
        budget = Budget(len(data))
    except FaultError as fault:
        return _File(signature, known, (Fault(name, 0, "", fault.reason, bool(known)),))
    reading = _Reading(name, known, {} if former is None else former.parts)
    for number, (before, part) in enumerate(parts(data), 1):
        reading.take(part, before, number, budget)
    return reading.file(signature)


def _merge(files: dict[str, _File]) -> tuple[dict[ObjectKey, RawObject], list[Fault]]:
    """Every object once, the first file first, and no address twice."""
    faults: list[Fault] = []
    merged: dict[ObjectKey, RawObject] = {}
    places: dict[ObjectKey, str] = {}
    addresses: dict[str, ObjectKey] = {}
    for name, file in files.items():
        faults.extend(file.faults)
        for key, (line, found) in file.objects.items():
            if key in merged:
                faults.append(Fault(name, line, str(key), f"{places[key]} has this object already"))
                continue
            if isinstance(found, RawPod) and not found.pod.host_network:
                taken = next((ip for ip in found.pod.ips if ip in addresses), None)
                if taken is not None:
                    reason = f"its address {taken} is {addresses[taken]}'s already"
                    faults.append(Fault(name, line, str(key), reason))
                    continue
                addresses.update(dict.fromkeys(found.pod.ips, key))
            merged[key] = found
            places[key] = name
    return merged, faults


class _Reading:
    """One file while it is read, part by part."""

    def __init__(self, name: str, known: dict[ObjectKey, tuple[int, RawObject]], former: _Parts) -> None:
        self._name = name
        self._known = known
        self._former = former
        self._parts: _Parts = {}
        self._objects: dict[ObjectKey, tuple[int, RawObject]] = {}
        self._faults: list[Fault] = []
        self._unread = False
        """A part could not even be parsed: which objects were in it is not known."""

    def take(self, part: bytes, before: int, number: int, budget: Budget) -> None:
        """Takes the next part, which `before` lines of the file and `number` - 1 parts precede."""
        digest = hashlib.blake2b(part, digest_size=16).digest()
        decoded = self._former.get(digest)
        if decoded is None:
            try:
                decoded = tuple(_decode(document.line, document) for document in documents(part, budget))
            except FaultError as fault:
                self._unread = True
                line = before + fault.line if fault.line else before
                where = f"document {number}: " if number > 1 else ""
                self._faults.append(Fault(self._name, line, "", f"{where}{fault.reason}", bool(self._known)))
                return
        self._parts[digest] = decoded
        for each in decoded:
            self._put(each, before)

    def _put(self, each: _Decoded, before: int) -> None:
        key, line = each.key, before + each.line
        reason, found = each.fault, each.found
        if key is not None and key in self._objects:
            self._faults.append(Fault(self._name, line, str(key), "the object comes twice in this file"))
            return
        if reason is not None:
            kept = key is not None and key in self._known
            if key is not None and kept:
                self._objects[key] = self._known[key]
            elif key is not None and each.stand_in is not None:
                self._objects[key] = (line, each.stand_in)
            closed = not kept and each.stand_in is not None
            what = "" if key is None else str(key)
            self._faults.append(Fault(self._name, line, what, reason, last_good=kept, closed=closed))
        elif key is not None and found is not None:
            self._objects[key] = (line, found)

    def file(self, signature: _Signature) -> _File:
        """What it all comes to."""
        if self._unread:
            self._objects = {**self._known, **self._objects}
        return _File(signature, self._objects, tuple(self._faults), self._parts)


def _decode(line: int, document: Field) -> _Decoded:
    key: ObjectKey | None = None
    try:
        key = key_of(document)
        return _Decoded(line, key, decode(key, document))
    except FaultError as fault:
        return _Decoded(fault.line or line, key, fault=fault.reason, stand_in=fault.stand_in)
