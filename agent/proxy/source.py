"""Where the legs that the agent dials come from: the address and port that others should see. Pure.

Each function gives the sources to try, in order; port 0 is one that is free.
"""

from agent.capture.address import OriginalDst, PeerAddr, Source, parsed
from init.stand_in import stand_in

Sources = tuple[Source, ...]


def of_client(client: PeerAddr) -> Sources:
    """Towards the application, from the client's own address.

    Another port where the pod listens on the client's, or the same four numbers are still in TIME_WAIT.
    """
    return Source(*client), Source(client.address, 0)


def of_application(
    chosen: PeerAddr,
    dialled: OriginalDst,
    place: tuple[str, int],
    *,
    keeps_port: bool,
    stand_ins: bool,
    only: str | None = None,
) -> Sources:
    """Towards the peer at `place`, from the address and port that the application's socket has; empty: from any.

    The application's socket has the same four numbers where that is what it dialled, and has its port for itself where
    it has bound it. So the leg is at a stand-in's address (init.stand_in), wherever it can be: two legs to one place
    from one port would meet in conntrack. `keeps_port` is whether the leg may have the application's port, `stand_ins`
    whether it may be at such an address: the pod's rules know of them, and the way there does not depend on it. `only`
    is the pod's IPv4 address, where it has no other.

    Without a stand-in, where an application that has bound its port dials two places from there, one leg has it at a
    time.
    """
    address = place[0]
    if (":" in chosen.address) != (":" in address) or (":" in chosen.address and parsed(chosen.address).is_link_local):
        return ()  # a service's endpoint of the other family; an address that means nothing without its interface
    any_port = Source(chosen.address, 0)
    if not keeps_port:
        return (any_port,)
    if stand_ins and (instead := stand_in(chosen.address, only=chosen.address == only)) is not None:
        return Source(instead, chosen.port), any_port
    return (any_port,) if place == dialled else (Source(*chosen, alone=True), any_port)
