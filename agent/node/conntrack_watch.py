"""How full pods' conntrack tables are: in a full one the kernel drops in silence what would open a connection."""

import asyncio
import logging

from agent.capture import conntrack_room
from agent.node.enrolled import Enrolled
from agent.node.roster import Roster
from agent.node.visits import Visits

log = logging.getLogger("quietwire.enrolment")

CONNTRACK_SECONDS = 5.0
"""How often each pod's conntrack table is asked for its size."""
CROWDED, ROOMY = 0.9, 0.8
"""Parts of a conntrack table's limit: from the one on it is said, and below the other that it is over. Above 0.95 the
kernel forgets connections that are closing, to make room."""


class ConntrackWatch:
    """The tables of everybody who is enrolled."""

    def __init__(self, roster: Roster, visits: Visits) -> None:
        self._roster = roster
        self._visits = visits
        self.used = 0.0
        """The part of its limit that the fullest conntrack table of a pod has used."""

    async def run(self) -> None:
        """Says which pods' tables fill up, until it is cancelled."""
        while True:
            await asyncio.sleep(CONNTRACK_SECONDS)
            fullest = 0.0
            for enrolled in list(self._roster.pods.values()):
                if enrolled not in self._roster:
                    continue
                try:
                    room = await self._visits.inside(enrolled.fd, conntrack_room.ask)
                except OSError as error:  # it left meanwhile, or there are no descriptors
                    log.debug("the conntrack table of %s could not be asked for: %s", enrolled.key, error)
                    continue
                fullest = max(fullest, room.used)
                _say(enrolled, room)
            self.used = fullest


def _say(enrolled: Enrolled, room: conntrack_room.Room) -> None:
    if room.used >= CROWDED and not enrolled.crowded:
        enrolled.crowded = True
        log.error(
            "the conntrack table of %s is full, or nearly: %d of %d entries. In a full one the kernel drops what "
            "would open a connection, in and out; connections that are open go on. Raise the sysctl "
            "net.netfilter.nf_conntrack_max on the node, which holds for each pod's own table, or find out who "
            "opens so many: conntrack -L in the pod's namespace",
            enrolled.key,
            room.entries,
            room.limit,
            extra={"fields": {"event": "conntrack", "pod": enrolled.key, "entries": room.entries}},
        )
    elif room.used < ROOMY and enrolled.crowded:
        enrolled.crowded = False
        log.info("the conntrack table of %s has room again: %d of %d", enrolled.key, room.entries, room.limit)
