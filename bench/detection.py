"""What finding out about a connection costs, by how its first bytes arrive. Alone, and on a quiet machine.

Microseconds for each byte that arrives, and for a whole ClientHello. A figure that grows with the size is a fault: a
client that sends byte by byte costs the square of what it sends then.
"""

import itertools
import ssl
import statistics
import sys
import time
from collections.abc import Iterator

from agent.proxy.detect import classify
from agent.tls.client_hello import MAX_CLIENT_HELLO, MAX_RECORDS, HelloParser
from bench.decision import printed

NAME = "web.demo.serviceaccount.identity.example.test"
SIZES = (1000, 4000, MAX_CLIENT_HELLO - 4)
ROUNDS = 9
HELLOS = 2000


def real_hello() -> bytes:
    """What OpenSSL's client says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["quietwire/1"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(incoming, outgoing, server_hostname=NAME).do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise RuntimeError("a handshake ended before it began")


def announced(size: int, records: int) -> bytes:
    """A ClientHello of `size` bytes that is decided by its last one, in so many records."""
    message = b"\x01" + size.to_bytes(3, "big") + bytes(size)
    cuts = [*range(records), len(message)]
    parts = (message[begin:end] for begin, end in itertools.pairwise(cuts))
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


def byte_by_byte(stream: bytes) -> float:
    """Microseconds for each byte, when each comes alone."""
    parser, arrived, detected = HelloParser(), bytearray(), None
    began = time.perf_counter_ns()
    for byte in stream:
        arrived.append(byte)
        detected = classify(parser.look(arrived), NAME)
    taken = time.perf_counter_ns() - began
    if detected is None:
        raise RuntimeError("a whole ClientHello was not found to be one")
    return taken / len(stream) / 1000


def at_once(hello: bytes, times: int) -> float:
    """Microseconds for a ClientHello that comes in one piece, as it does."""
    began = time.perf_counter_ns()
    for _ in range(times):
        classify(HelloParser().look(hello), NAME)
    return (time.perf_counter_ns() - began) / times / 1000


def rows(sizes: tuple[int, ...] = SIZES, rounds: int = ROUNDS, hellos: int = HELLOS) -> Iterator[tuple[str, float]]:
    """What is measured, one after the other: medians, µs."""
    hello = real_hello()
    yield (
        f"a ClientHello of {len(hello)} bytes, at once",
        statistics.median(at_once(hello, hellos) for _ in range(rounds)),
    )
    for records in (1, MAX_RECORDS):
        for size in sizes:
            stream = announced(size, records)
            each = statistics.median(byte_by_byte(stream) for _ in range(rounds))
            yield f"byte by byte, {size:5} bytes in {records:2} records: each byte", each


def main() -> int:
    """Prints the table."""
    return printed(rows())


if __name__ == "__main__":
    sys.exit(main())
