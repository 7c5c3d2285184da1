"""What an inbound connection is, from its first bytes. Detection never costs an application time.

The bytes are kept, not consumed: whoever serves the connection gets them all, as if they had been peeked.
"""

import asyncio
from collections.abc import Callable
from enum import StrEnum

from msgspec import Struct

from agent.outcome import Outcome
from agent.proxy.opening import Opening
from agent.tls import alpn
from agent.tls.client_hello import ClientHello, HelloParser, Malformed, NeedMore, NotTls, Parsed, TooLarge

HANDSHAKE_SECONDS = 10.0
"""How long a client may take for its ClientHello, and then for the rest of the handshake."""

HOLD_SECONDS = 0.02
"""How long an application that speaks first is held, for a ClientHello that may be on its way."""


SILENCE_SECONDS = 3600.0
"""How often a connection on which nobody speaks is looked at again; it is not ended for that."""

MAX_SHOWN, MAX_SHOWN_BYTES = 4, 32
"""Of protocols that a client offers, those that a refusal names, and how much of each."""


class NotMesh(StrEnum):
    """Why a connection is not mesh TLS."""

    NOT_TLS = "its first bytes are no TLS"
    OTHER_NAME = "its TLS is not for the mesh: the ClientHello does not name this pod's identity"
    TOO_LARGE = "its ClientHello is too large"
    MALFORMED = "its ClientHello is malformed"
    APPLICATION_FIRST = "the application spoke first"
    ENDED = "it ended before it sent a ClientHello"
    SILENT = "it sent no ClientHello in time"


class MeshTls(Struct, frozen=True):
    """A ClientHello that names this pod's identity: terminated here."""

    hello: ClientHello


class Unauthenticated(Struct, frozen=True):
    """Anything else, whoever the source is: a client without identity.

    `outcome` is how a refusal is counted where policy permits nothing but mesh TLS; None leaves it to policy.
    """

    why: NotMesh
    outcome: Outcome | None = None


class Rejected(Struct, frozen=True):
    """Mesh TLS that cannot be served."""

    outcome: Outcome
    message: str


Detected = MeshTls | Unauthenticated | Rejected


def classify(parsed: Parsed, server_name: str) -> Detected | None:
    """Judges what the first bytes are; None while they could still become either. Pure."""
    match parsed:
        case NeedMore():
            return None
        case NotTls():
            return Unauthenticated(NotMesh.NOT_TLS)
        case TooLarge():
            return Unauthenticated(NotMesh.TOO_LARGE, Outcome.CLIENT_HELLO_TOO_LARGE)
        case Malformed():
            return Unauthenticated(NotMesh.MALFORMED, Outcome.CLIENT_HELLO_MALFORMED)
        case ClientHello():
            return _classify_hello(parsed, server_name)


def _classify_hello(hello: ClientHello, server_name: str) -> Detected:
    if hello.server_name is None or hello.server_name.lower() != server_name:
        return Unauthenticated(NotMesh.OTHER_NAME)
    if not hello.offers_tls13:
        return Rejected(Outcome.TLS_VERSION, "the client does not offer TLS 1.3, and the mesh speaks nothing older")
    if alpn.choose(hello.alpn) is alpn.REFUSED:
        return Rejected(
            Outcome.NO_APPLICATION_PROTOCOL,
            f"the client offers only {_shown(hello.alpn)} by ALPN; "
            f"a mesh port serves quietwire/1, http/1.1, h2, or no ALPN",
        )
    return MeshTls(hello)


def _shown(offered: tuple[bytes, ...]) -> str:
    """A stranger's words, of which a ClientHello has room for 16 kB: some of them, for a line of the log."""
    names = [name[:MAX_SHOWN_BYTES].decode("ascii", "backslashreplace") for name in offered[:MAX_SHOWN]]
    more = len(offered) - MAX_SHOWN
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


async def wait_for_hello(client: Opening, server_name: str, deadline: float) -> Detected:
    """Nothing but a ClientHello is worth waiting for: the source is meshed, or policy permits nothing else."""
    parser = HelloParser()
    while True:
        if client.held:
            detected = classify(parser.look(client.held), server_name)
            if detected is not None:
                return detected
        if client.eof or client.lost:
            return Unauthenticated(NotMesh.ENDED)
        if not await client.bell.wait(deadline):
            return Unauthenticated(NotMesh.SILENT, Outcome.HANDSHAKE_TIMEOUT)


async def first_speaker(
    client: Opening, application: Opening, server_name: str, deadline: float, still_possible: Callable[[], bool]
) -> Detected:
    """Policy could permit this client as it is: whoever speaks first decides. Both openings share one bell.

    `still_possible` says whether policy still could: it is asked at each ring, and a changed policy rings.
    """
    clock = asyncio.get_running_loop().time
    hold_until: float | None = None
    parser = HelloParser()
    while True:
        if client.held:
            detected = classify(parser.look(client.held), server_name)
            if detected is not None:
                return detected
        if client.eof or client.lost:
            return Unauthenticated(NotMesh.ENDED)
        if not still_possible():
            return Unauthenticated(NotMesh.SILENT)
        if not client.held and not application.silent:
            if hold_until is None:
                hold_until = clock() + HOLD_SECONDS
            if not await client.bell.wait_precisely(hold_until) or clock() >= hold_until:
                return Unauthenticated(NotMesh.APPLICATION_FIRST)
        elif client.held:  # the beginning of a ClientHello
            if not await client.bell.wait(deadline):
                return Unauthenticated(NotMesh.SILENT)
        else:  # nobody has spoken: a connection may stay silent for as long as it likes
            await client.bell.wait(clock() + SILENCE_SECONDS)
