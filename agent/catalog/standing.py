"""What is in force, from what each file says now and what was in force before. Pure but for its memory of that.

A fault takes nothing away: an object with a fault keeps its last good version, and a document of which nobody can tell
what it is about holds what vanished from its file, for as long as it is there. Nor does it give anything away: whoever
has a name or an address keeps it, and a second claim is a fault of the second, wherever its file sorts. Nor does it
open anything: where no good version is known, a stand-in that denies is in force, for as long as the fault is.
"""

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from agent.catalog.claims import claims_of
from agent.manifests.fault import Fault
from agent.manifests.origin import Origin
from agent.objects.decode import RawObject, RawPod
from agent.objects.decode_services import RawService
from agent.objects.key import ObjectKey
from agent.objects.policy import BrokenServer


class Claim(Struct, frozen=True):
    """One document that says which object it is: the object, or a fault and perhaps what stands in for it."""

    line: int
    found: RawObject | None = None
    fault: str = ""
    stand_in: RawObject | None = None


class Nameless(Struct, frozen=True):
    """A document of which nobody can tell which objects it is. `forbids` says whether it could close anything."""

    digest: bytes
    line: int
    fault: str
    forbids: bool


class Reading(Struct, frozen=True):
    """What one file says. `unread` is why that is not known now, and `quiet` where it is too early for a fault."""

    claims: Mapping[ObjectKey, Claim] = {}
    repeats: tuple[tuple[ObjectKey, Claim], ...] = ()
    """Objects that come again in the same file."""
    finished: frozenset[ObjectKey] = frozenset()
    """Pods that are there, and no more in the mesh: nothing holds them."""
    nameless: tuple[Nameless, ...] = ()
    remarks: tuple[tuple[int, ObjectKey, str], ...] = ()
    """What is to be said about objects that can be used: lines, and words."""
    unread: str = ""
    quiet: bool = False
    forbids: bool = True
    """Of a file that is not read: whether it could be a manifest at all."""


class Standing(Struct, frozen=True):
    """An object in force, and where it stands. `stand_in` is set where no good version of it is known."""

    file: str
    line: int
    raw: RawObject
    stand_in: bool = False


class Known(Struct, frozen=True):
    """What is remembered: all that is in force, the files that there were, and those that close every default."""

    standing: dict[ObjectKey, Standing]
    files: tuple[str, ...]
    closing: tuple[str, ...] = ()


class Settled(Struct, frozen=True):
    """What is in force now that was not before, and what is so no more: every object once, and no address twice.

    `news` where there is something to remember.
    """

    changed: dict[ObjectKey, RawObject]
    gone: tuple[ObjectKey, ...]
    faults: list[Fault]
    news: bool


_Place = tuple[str, bytes]
"""A file, and the digest of a document in it."""


class Standings:
    """What each `settle` left in force, for the next one.

    Where nothing is known of before, a document that cannot be read closes every default until it is mended, because
    nobody knows what it forbids. Later one that was never in force changes nothing.
    """

    def __init__(self) -> None:
        self._first = True
        self._in_force: dict[ObjectKey, RawObject] = {}
        """As whoever joins them was told last."""
        self._standing: dict[ObjectKey, Standing] = {}
        self._addresses: dict[str, ObjectKey] = {}
        self._files: frozenset[str] = frozenset()
        self._held: dict[_Place, frozenset[ObjectKey]] = {}
        """By the nameless documents: the objects that each may be about."""
        self._closing: frozenset[str] = frozenset()

    @property
    def known(self) -> Known:
        """What to remember."""
        return Known(self._standing, tuple(sorted(self._files)), tuple(sorted(self._closing)))

    def restore(self, known: Known) -> None:
        """Takes up where an agent before this one ended."""
        self._first = False
        self._standing = known.standing
        self._files = frozenset(known.files)
        self._closing = frozenset(known.closing)
        self._addresses = {ip: key for key, standing in known.standing.items() for ip in addresses_of(standing.raw)}

    def origin(self, key: ObjectKey) -> Origin:
        """Where an object in force stands."""
        standing = self._standing[key]
        return Origin(standing.file, standing.line)

    def origins(self) -> dict[ObjectKey, Origin]:
        """The same for all."""
        return {key: self.origin(key) for key in self._standing}

    def settle(self, readings: Mapping[str, Reading]) -> Settled:
        """What is in force now. The files are in order: among newcomers the first goes first."""
        faults: list[Fault] = []
        now = self._kept_of_unread(readings)
        for key, (file, claim) in self._chosen(readings, now, faults).items():
            standing = self._of_claim(key, file, claim, faults)
            if standing is not None:
                now[key] = standing
        held = self._hold(readings, now)
        self._resolve(now, faults)
        closing = self._closed_by(readings, held, now)
        for name, reading in readings.items():
            closed = name in closing
            if reading.unread and not reading.quiet:
                kept = any(standing.file == name for standing in now.values())
                faults.append(Fault(Origin(name), "", reading.unread, last_good=kept, closed=closed and not kept))
            for each in reading.nameless:
                kept = bool(held[name, each.digest])
                origin = Origin(name, each.line)
                faults.append(Fault(origin, "", each.fault, last_good=kept, closed=closed and not kept))
        files = frozenset(readings)
        news = (
            closing != self._closing
            or files != self._files
            or now.keys() != self._standing.keys()
            or any(_differ(standing, self._standing[key]) for key, standing in now.items())
        )
        self._standing, self._files, self._held, self._closing, self._first = now, files, held, closing, False
        if news:
            self._addresses = {ip: key for key, standing in now.items() for ip in addresses_of(standing.raw)}
        return self._settled(self._objects(now, closing), faults, news=news)

    def _settled(self, objects: dict[ObjectKey, RawObject], faults: list[Fault], *, news: bool) -> Settled:
        former, self._in_force = self._in_force, objects
        changed = {key: raw for key, raw in objects.items() if not _same(raw, former.get(key))}
        return Settled(changed, tuple(key for key in former if key not in objects), faults, news)

    @staticmethod
    def _objects(now: Mapping[ObjectKey, Standing], closing: Iterable[str]) -> dict[ObjectKey, RawObject]:
        objects = {key: standing.raw for key, standing in now.items()}
        for name in closing:
            broken = BrokenServer("", name)
            objects[broken.key] = broken
        return objects

    def _kept_of_unread(self, readings: Mapping[str, Reading]) -> dict[ObjectKey, Standing]:
        """What stays as it is because its file is not read."""
        unread = {name for name, reading in readings.items() if reading.unread}
        if not unread:
            return {}
        return {key: standing for key, standing in self._standing.items() if standing.file in unread}

    def _chosen(
        self, readings: Mapping[str, Reading], kept: Mapping[ObjectKey, Standing], faults: list[Fault]
    ) -> dict[ObjectKey, tuple[str, Claim]]:
        """One claim to each name: that of the file that has it, and in that file the one that is as it was."""
        chosen: dict[ObjectKey, tuple[str, Claim]] = {}
        rivals: dict[ObjectKey, list[tuple[str, Claim]]] = {}
        for name, reading in readings.items():
            for key, claim in reading.claims.items():
                if key in chosen or key in kept:
                    rivals.setdefault(key, []).append((name, claim))
                else:
                    chosen[key] = (name, claim)
            for key, claim in reading.repeats:
                rivals.setdefault(key, []).append((name, claim))
        for key, others in rivals.items():
            former = self._standing.get(key)
            everyone = others if key in kept else [chosen[key], *others]
            if key in kept:
                file = kept[key].file
            else:
                chosen[key] = min(everyone, key=lambda each: _seniority(each, former))
                file = chosen[key][0]
            for each in everyone:
                if key in kept or each is not chosen[key]:
                    twice = "the object comes twice in this file"
                    reason = twice if each[0] == file else f"{file} has this object already"
                    faults.append(Fault(Origin(each[0], each[1].line), str(key), reason))
        return chosen

    def _of_claim(self, key: ObjectKey, file: str, claim: Claim, faults: list[Fault]) -> Standing | None:
        former = self._standing.get(key)
        if claim.found is not None:
            if former is None or former.stand_in or (former.raw is not claim.found and former.raw != claim.found):
                return Standing(file, claim.line, claim.found)
            moved = former.file != file or former.line != claim.line
            return Standing(file, claim.line, former.raw) if moved else former
        good = former is not None and not former.stand_in
        if former is not None and (good or claim.stand_in is None):
            standing: Standing | None = msgspec.structs.replace(former, file=file, line=claim.line)
        else:
            standing = None if claim.stand_in is None else Standing(file, claim.line, claim.stand_in, stand_in=True)
        closed = standing is not None and not good
        faults.append(Fault(Origin(file, claim.line), str(key), claim.fault, last_good=good, closed=closed))
        return standing

    def _hold(
        self, readings: Mapping[str, Reading], now: dict[ObjectKey, Standing]
    ) -> dict[_Place, frozenset[ObjectKey]]:
        """Puts back what vanished and may be what a nameless document, or a new file that is not read, is about.

        A document that was there before goes on holding what it held. One that is new to a file may be anything that
        vanished from it, or that another one brings along; in a file that is new, anything of files that went in the
        same moment: it may be one of them.
        """
        finished = frozenset().union(*(reading.finished for reading in readings.values()))
        vanished = {key: each for key, each in self._standing.items() if key not in now and key not in finished}
        held: dict[_Place, frozenset[ObjectKey]] = {}
        moved: dict[bytes, set[ObjectKey]] = {}
        for (_, digest), keys in self._held.items():
            moved.setdefault(digest, set()).update(keys & vanished.keys())
        gone = self._files - readings.keys()
        for name, reading in readings.items():
            if not (reading.nameless or (reading.unread and name not in self._files)):
                continue
            mine = {
                key
                for key, standing in vanished.items()
                if standing.file == name or (name not in self._files and standing.file in gone)
            }
            for (
                each
            ) in reading.nameless:  # what one of them brings along stands in this file too: another may be about it
                mine |= moved.get(each.digest, set()) if (name, each.digest) not in self._held else set()
            kept = set(mine) if reading.unread else set()
            for each in reading.nameless:
                before = self._held.get((name, each.digest))
                of_this = mine if before is None else before & vanished.keys()
                held[name, each.digest] = frozenset(of_this)
                kept |= of_this
            for key in kept:
                now[key] = msgspec.structs.replace(vanished[key], file=name)
        return held

    def _resolve(self, now: dict[ObjectKey, Standing], faults: list[Fault]) -> None:
        """Leaves no address to two. Whoever loses one keeps what it had before, if it had any."""
        moving = [
            key
            for key, standing in now.items()
            if (former := self._standing.get(key)) is None or former.raw is not standing.raw
        ]
        while moving:
            won: dict[str, ObjectKey] = {}
            lost: dict[ObjectKey, tuple[str, ObjectKey]] = {}
            for key in moving:
                mine = addresses_of(now[key].raw)
                for ip in mine:
                    holder = self._addresses.get(ip, key)
                    if holder != key and holder in now and ip in addresses_of(now[holder].raw):
                        lost[key] = (ip, holder)
                        break
                    if won.get(ip, key) != key:
                        lost[key] = (ip, won[ip])
                        break
                else:
                    won.update(dict.fromkeys(mine, key))
            if not lost:
                return
            for key, (ip, winner) in lost.items():
                file, line = now[key].file, now[key].line
                former = self._standing.get(key)
                good = former is not None and not former.stand_in
                reason = f"its address {ip} is {winner}'s already"
                kept = former if good else _without_address(file, line, now[key].raw) or former
                closed = kept is not None and not good
                faults.append(Fault(Origin(file, line), str(key), reason, last_good=good, closed=closed))
                if kept is None:
                    del now[key]
                else:
                    now[key] = msgspec.structs.replace(kept, file=file, line=line)
            moving = [key for key in moving if key not in lost]  # who fell back may want an address that was given on

    def _closed_by(
        self,
        readings: Mapping[str, Reading],
        held: Mapping[_Place, frozenset[ObjectKey]],
        now: Mapping[ObjectKey, Standing],
    ) -> frozenset[str]:
        """Files that close every default: unreadable since the first start."""
        heirs = frozenset(readings) - self._files if self._closing - readings.keys() else frozenset()
        candidates = frozenset(readings) if self._first else (self._closing & readings.keys()) | heirs
        found = set()
        for name in candidates:
            reading = readings[name]
            nameless = any(each.forbids and not held[name, each.digest] for each in reading.nameless)
            unread = bool(reading.unread) and reading.forbids
            if nameless or (unread and not any(standing.file == name for standing in now.values())):
                found.add(name)
        return frozenset(found)


def addresses_of(raw: RawObject) -> tuple[str, ...]:
    """The addresses that belong to an object alone."""
    if isinstance(raw, RawPod):
        return () if raw.pod.host_network else raw.pod.ips
    return raw.cluster_ips if isinstance(raw, RawService) else ()


def _without_address(file: str, line: int, raw: RawObject) -> Standing | None:
    """What is in force of a newcomer whose address is another's; None for nothing.

    A service's addresses outside the cluster's network stay its own, and nobody is behind them: nobody would know them
    without it, and they would be dialled in plaintext.
    """
    if not isinstance(raw, RawService) or not claims_of(raw):
        return None
    closed = msgspec.structs.replace(raw, cluster_ips=(), closed=True)
    return Standing(file, line, closed, stand_in=True)


def _seniority(each: tuple[str, Claim], former: Standing | None) -> int:
    if former is None or each[0] != former.file:
        return 2
    return 0 if each[1].found == former.raw else 1


def _same(one: RawObject, other: RawObject | None) -> bool:
    return one is other or one == other


def _differ(one: Standing, other: Standing) -> bool:
    return one.raw is not other.raw or one.file != other.file
