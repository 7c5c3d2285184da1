"""Namespaces that were handed over, remembered across restarts of the agent: pinned, each with the pod that it is of.

A namespace that a manifest names is found again by that name. One that an init step handed over has no name: the agent
had a descriptor of it, and that ends with the agent. So it is mounted below the run directory (as `ip netns` does), and
an index says which pod it was for. Whoever could write there could as well enrol it: only root can.

A pinned namespace lives on without processes; `forget` lets it go.
"""

import logging
import os
from pathlib import Path

import msgspec
from msgspec import Struct

from agent.capture.netns import NetnsId, identify, pin, unpin
from agent.objects.key import PodKey
from init import on_disk
from init.netns import NetnsError, open_netns

log = logging.getLogger("quietwire.enrolment")

INDEX = "index.json"


class Handed(Struct, frozen=True):
    """A namespace that was handed over: a descriptor of ours, for the pod with this UID."""

    key: PodKey
    uid: str
    fd: int
    ips: tuple[str, ...] = ()
    """Of the pod, as it was when it was handed over: the catalog may not have them yet."""

    def is_for(self, key: PodKey, uid: str) -> bool:
        """Whether it is this pod's. Where one of the two has no UID, the name decides."""
        return self.key == key and not (self.uid and uid and self.uid != uid)


class _Entry(Struct, frozen=True):
    pod: PodKey
    uid: str
    device: int
    inode: int


class Remembered:
    """One directory of pinned namespaces, made when there is one to remember."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._entries: dict[NetnsId, _Entry] = {}

    def load(self) -> list[Handed]:
        """What was remembered and is still what it was; the rest is forgotten, and said. Raises OSError."""
        if not os.path.lexists(self._directory):
            return []
        on_disk.make_private(self._directory)
        found: list[Handed] = []
        for entry in self._read():
            identity = NetnsId(entry.device, entry.inode)
            try:
                fd = open_netns(str(self._pin(identity)))
            except NetnsError as error:  # another mount namespace than before, or the machine was started anew
                log.warning("the namespace of %s is lost (%s): its init step must hand it over again", entry.pod, error)
                continue
            if identify(fd) != identity:
                os.close(fd)
                log.warning("the namespace of %s is another one now: its init step must hand it over again", entry.pod)
                continue
            self._entries[identity] = entry
            found.append(Handed(entry.pod, entry.uid, fd))
        kept = {self._pin(identity).name for identity in self._entries}
        for path in self._directory.iterdir():
            if path.name.isdigit() and path.name not in kept:
                unpin(path)
        self._write()
        return found

    def keep(self, handed: Handed) -> None:
        """Remembers a namespace for a pod. Raises OSError."""
        identity = identify(handed.fd)
        entry = _Entry(handed.key, handed.uid, *identity)
        if self._entries.get(identity) == entry:
            return
        on_disk.make_private(self._directory)
        if identity not in self._entries:
            pin(handed.fd, self._pin(identity))
        self._entries[identity] = entry
        self._write()

    def forget(self, identity: NetnsId) -> None:
        """Lets go of a namespace; nothing where it was not remembered. Raises OSError."""
        if self._entries.pop(identity, None) is not None:
            self._write()
            unpin(self._pin(identity))

    def _pin(self, identity: NetnsId) -> Path:
        return self._directory / str(identity.inode)

    def _read(self) -> list[_Entry]:
        path = self._directory / INDEX
        try:
            return msgspec.json.decode(on_disk.read(path), type=list[_Entry])
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:  # msgspec's are ValueErrors; their pods stay refused
            log.error("%s cannot be used (%s): pods that their init steps enrolled must be enrolled again", path, error)
            return []

    def _write(self) -> None:
        on_disk.replace(self._directory / INDEX, msgspec.json.encode(list(self._entries.values())))
