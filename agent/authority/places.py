"""How many connections who may hold: strangers cannot crowd agents out, nor each other. Pure bookkeeping.

Whoever has not shown an agent's certificate is a stranger, from the first packet on: nothing else is known of him.
Where strangers are too many, it is the busiest address that loses its oldest connection, and of those only one that
waits for its client. So who is quick is served, and who holds connections open loses them.
"""

import ipaddress
from collections.abc import Callable
from typing import Any

MAX_STRANGERS = 1024
"""Connections without an agent's certificate, those in their handshake included."""
MAX_OF_ONE_ADDRESS = 32
"""Of them, those of one address: an IPv4 address, or an IPv6 /64."""
MAX_AGENTS = 4096
"""Connections of agents, which strangers cannot take."""
MAX_OF_ONE_AGENT = 16


def network(address: str) -> str:
    """What one sender is told by: its IPv4 address, or its IPv6 /64, of which anybody may have every address.

    Link-local addresses are told one by one, for every link's are in one /64; mapped IPv4 addresses are IPv4's
    (RFC 4291, section 2.5.5.2). What is no address stands for itself.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    if found.is_link_local:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False))


class Place:
    """One connection. `end` ends it, wherever it is; `is_served` says that it waits for us, and not for its client."""

    __slots__ = ("end", "is_served", "owner", "shelf")

    def __init__(self, owner: str, end: Callable[[], object]) -> None:
        self.owner = owner
        self.end = end
        self.is_served: Callable[[], bool] = bool  # not before there is a request
        self.shelf: _Shelf | None = None


class _Shelf:
    """Places of one kind, by owner, each owner's in order of arrival."""

    def __init__(self, limit: int, limit_of_one: int) -> None:
        self._limit, self._limit_of_one = limit, limit_of_one
        self._owners: dict[str, dict[Place, None]] = {}
        self.count = 0

    def put(self, place: Place) -> bool:
        """Gives it room, at the cost of another one where there is none; False where none would yield."""
        own = self._owners.get(place.owner, {})
        if len(own) >= self._limit_of_one:
            if not self._end(_oldest_idle(own)):
                return False
        elif self.count >= self._limit and not self.crowd_out():
            return False
        self._owners.setdefault(place.owner, {})[place] = None
        self.count += 1
        place.shelf = self
        return True

    def crowd_out(self) -> bool:
        """Has the busiest owner's oldest idle place yield; whether one did."""
        return self._end(_oldest_idle(max(self._owners.values(), key=len, default={})))

    def _end(self, place: Place | None) -> bool:
        if place is None:
            return False
        self.take(place)
        place.end()
        return True

    def take(self, place: Place) -> None:
        own = self._owners[place.owner]
        del own[place]
        if not own:
            del self._owners[place.owner]
        self.count -= 1
        place.shelf = None


def _oldest_idle(places: dict[Place, Any]) -> Place | None:
    return next((place for place in places if not place.is_served()), None)


class Places:
    """All connections of a server."""

    def __init__(self) -> None:
        self.strangers = _Shelf(MAX_STRANGERS, MAX_OF_ONE_ADDRESS)
        self.agents = _Shelf(MAX_AGENTS, MAX_OF_ONE_AGENT)

    def enter(self, place: Place) -> bool:
        """A connection came in, whose owner is a network; whether it may stay. Another one may be ended for it."""
        return self.strangers.put(place)

    def know(self, place: Place, agent: str) -> bool:
        """It showed an agent's certificate: it is no stranger's any more. Whether it may stay."""
        self.leave(place)
        place.owner = agent
        return self.agents.put(place)

    def leave(self, place: Place) -> None:
        """It is over. May be said twice."""
        if place.shelf is not None:
            place.shelf.take(place)
