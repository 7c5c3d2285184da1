"""The `files` source: a directory of manifests, followed live; what cannot be used is refused, file and line said.

What was last good stays in force: a file with a syntax error keeps the objects that it had, an object with a
fault keeps its former version, and everything else in the directory is loaded.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

from asyncinotify import Inotify, Mask
from msgspec import Struct

from agent.catalog.document import Field, documents
from agent.catalog.fault import Fault, FaultError
from agent.catalog.join import join
from agent.catalog.model import Catalog
from agent.catalog.objects import ObjectKey, RawObject, RawPod, decode, key_of

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

_Signature = tuple[int, int, int]


class _File(Struct):
    """What one file gave when it was last read."""

    signature: _Signature
    objects: dict[ObjectKey, tuple[int, RawObject]]
    faults: tuple[Fault, ...]


class FilesSource:
    """Manifests in a directory. `on_change` is called with the catalog and every fault, when either has changed."""

    def __init__(self, directory: Path, on_change: Callable[[Catalog, tuple[Fault, ...]], None]) -> None:
        self._directory = directory
        self._on_change = on_change
        self._files: dict[str, _File] = {}
        self._catalog = Catalog()
        self._faults: tuple[Fault, ...] = ()
        self._loaded = False

    def load(self) -> None:
        """Reads the directory now, on the calling thread."""
        self._publish(*self._scan())

    async def run(self) -> None:
        """Follows the directory until cancelled. Parsing is done on a thread."""
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

    def _publish(self, catalog: Catalog, faults: tuple[Fault, ...]) -> None:
        if not self._loaded or catalog.version != self._catalog.version or faults != self._faults:
            self._loaded = True
            self._catalog, self._faults = catalog, faults
            self._on_change(catalog, faults)

    def _scan(self) -> tuple[Catalog, tuple[Fault, ...]]:
        try:
            names = sorted(
                entry.name
                for entry in os.scandir(self._directory)
                if entry.name.endswith(SUFFIXES) and not entry.name.startswith(".")
            )
        except OSError as error:
            return self._catalog, (
                Fault(str(self._directory), 0, "", f"cannot be read: {error.strerror}", last_good=True),
            )
        files: dict[str, _File] = {}
        for name in names:
            read = self._read(name, self._files.get(name))
            if read is not None:
                files[name] = read
        self._files = files
        return self._merge()

    def _read(self, name: str, former: _File | None) -> _File | None:
        path = self._directory / name
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
            parsed = documents(data)
        except FaultError as fault:
            return _File(signature, known, (Fault(name, fault.line, "", fault.reason, bool(known)),))
        objects: dict[ObjectKey, tuple[int, RawObject]] = {}
        faults: list[Fault] = []
        for document in parsed:
            _take(name, document, known, objects, faults)
        return _File(signature, objects, tuple(faults))

    def _merge(self) -> tuple[Catalog, tuple[Fault, ...]]:
        faults: list[Fault] = []
        merged: dict[ObjectKey, tuple[str, RawObject]] = {}
        addresses: dict[str, ObjectKey] = {}
        for name, file in self._files.items():
            faults.extend(file.faults)
            for key, (line, found) in file.objects.items():
                if key in merged:
                    faults.append(Fault(name, line, str(key), f"{merged[key][0]} has this object already"))
                    continue
                if isinstance(found, RawPod):
                    taken = next((ip for ip in found.pod.ips if ip in addresses), None)
                    if taken is not None:
                        reason = f"its address {taken} is {addresses[taken]}'s already"
                        faults.append(Fault(name, line, str(key), reason))
                        continue
                    addresses.update(dict.fromkeys(found.pod.ips, key))
                merged[key] = (name, found)
        catalog = join((found for _, found in merged.values()), self._catalog.version)
        if catalog != self._catalog or not self._loaded:
            catalog = join((found for _, found in merged.values()), self._catalog.version + 1)
        return catalog, tuple(sorted(faults))


def _take(
    name: str,
    document: Field,
    known: dict[ObjectKey, tuple[int, RawObject]],
    objects: dict[ObjectKey, tuple[int, RawObject]],
    faults: list[Fault],
) -> None:
    key: ObjectKey | None = None
    try:
        key = key_of(document)
        if key in objects:
            raise FaultError(document.line, "the object comes twice in this file")
        found = decode(key, document)
    except FaultError as fault:
        kept = key is not None and key in known and key not in objects
        if key is not None and kept:
            objects[key] = known[key]
        faults.append(Fault(name, fault.line, "" if key is None else str(key), fault.reason, kept))
        return
    if found is None:
        log.debug("%s:%d: %s means nothing to the mesh", name, document.line, key)
    else:
        objects[key] = (document.line, found)
