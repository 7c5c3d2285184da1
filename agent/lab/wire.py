"""What really crosses the bridge: a packet capture, searched for markers and ClientHellos.

Frames are read off an AF_PACKET socket (packet(7)) that was made inside the hub's namespace, so that a capture
begins and ends exactly when it is told to, and says how many frames it lost.
"""

import socket
import struct
import threading
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from agent.tls.client_hello import ClientHello, parse
from init.netns import open_netns, setns

ETH_P_ALL = 0x0003
SOL_PACKET = 263
PACKET_STATISTICS = 6
RECEIVE_BUFFER = 64 * 1024 * 1024
SNAP = 262144
"""Bytes kept of a frame: more than the largest that offloads put together."""
TCP = 6
PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, SNAP, 1)


class WireError(Exception):
    """The capture cannot be trusted; `str` says why."""


class Flow(NamedTuple):
    """One direction of a TCP connection."""

    source: str
    source_port: int
    destination: str
    destination_port: int


class Segment(NamedTuple):
    """A TCP segment that carries data."""

    flow: Flow
    sequence: int
    payload: bytes


class SeenHello(NamedTuple):
    """A ClientHello, and the flow that begins with it."""

    flow: Flow
    hello: ClientHello


class Wire:
    """A capture of every interface in one namespace. Use it as a context manager; ask after it has ended."""

    def __init__(self, netns: str) -> None:
        self._netns = netns
        self._frames: list[bytes] = []
        self._stop = threading.Event()
        self._begun = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._capture, name="wire", daemon=True)
        self.lost = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._begun.wait()
        if self._failed is not None:
            raise WireError(f"no capture in {self._netns}: {self._failed}") from self._failed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Ends the capture, with everything that had arrived."""
        self._stop.set()
        self._thread.join()

    def _capture(self) -> None:
        try:
            # This thread is the capture's own and ends in the hub's namespace: it never needs to come home.
            setns(open_netns(self._netns))
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            sock.setsockopt(socket.SOL_SOCKET, 33, RECEIVE_BUFFER)  # SO_RCVBUFFORCE
        except OSError as error:
            self._failed = error
            self._begun.set()
            return
        with sock:
            sock.settimeout(0.05)
            self._begun.set()
            while True:
                try:
                    self._frames.append(sock.recv(SNAP))
                except TimeoutError:
                    if self._stop.is_set():
                        break
            _, self.lost = struct.unpack("II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))

    def segments(self) -> list[Segment]:
        """Every TCP segment with data. Raises WireError where frames were lost."""
        if self.lost:
            raise WireError(f"the capture lost {self.lost} frames and proves nothing")
        found = (_segment(frame) for frame in self._frames)
        return [segment for segment in found if segment is not None]

    def segments_of(self, address: str) -> list[Segment]:
        """Every TCP segment with data from or to an address. Raises WireError where frames were lost."""
        return [each for each in self.segments() if address in (each.flow.source, each.flow.destination)]

    def streams(self) -> dict[Flow, bytes]:
        """The data of each flow, put in order: a marker cut in two by segments is whole again."""
        by_flow: dict[Flow, dict[int, bytes]] = defaultdict(dict)
        for flow, sequence, payload in self.segments():
            if len(payload) > len(by_flow[flow].get(sequence, b"")):
                by_flow[flow][sequence] = payload
        return {flow: _in_order(parts) for flow, parts in by_flow.items()}

    def contains(self, marker: bytes) -> bool:
        """Whether the marker crossed the wire, in any frame or any reassembled stream."""
        return any(marker in frame for frame in self._frames) or any(
            marker in stream for stream in self.streams().values()
        )

    def client_hellos(self) -> list[SeenHello]:
        """Every flow that begins with a ClientHello."""
        found = []
        for flow, stream in self.streams().items():
            parsed = parse(stream)
            if isinstance(parsed, ClientHello):
                found.append(SeenHello(flow, parsed))
        return found

    def save(self, path: Path) -> None:
        """Writes a pcap file, for Wireshark and tcpdump."""
        with path.open("wb") as file:
            file.write(PCAP_HEADER)
            for frame in self._frames:
                file.write(struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame)


def _segment(frame: bytes) -> Segment | None:
    kind = int.from_bytes(frame[12:14], "big")
    if kind == 0x0800:
        start = 14 + (frame[14] & 0x0F) * 4
        if frame[23] != TCP:
            return None
        end = 14 + int.from_bytes(frame[16:18], "big")
        addresses = (socket.inet_ntop(socket.AF_INET, frame[26:30]), socket.inet_ntop(socket.AF_INET, frame[30:34]))
    elif kind == 0x86DD:
        start = 54
        if frame[20] != TCP:
            return None
        end = 54 + int.from_bytes(frame[18:20], "big")
        addresses = (socket.inet_ntop(socket.AF_INET6, frame[22:38]), socket.inet_ntop(socket.AF_INET6, frame[38:54]))
    else:
        return None
    source_port, destination_port, sequence = struct.unpack_from("!HHI", frame, start)
    data = start + (frame[start + 12] >> 4) * 4
    # A length of zero is a segment that offloads put together beyond 64 KiB: all that there is.
    payload = frame[data : end if end > start else len(frame)]
    if not payload:
        return None
    return Segment(Flow(addresses[0], source_port, addresses[1], destination_port), sequence, payload)


def _in_order(parts: dict[int, bytes]) -> bytes:
    first = min(parts, key=lambda sequence: (sequence - next(iter(parts))) & 0xFFFFFFFF ^ 0x80000000)
    stream = bytearray()
    for sequence in sorted(parts, key=lambda each: (each - first) & 0xFFFFFFFF):
        offset = (sequence - first) & 0xFFFFFFFF
        payload = parts[sequence]
        if offset > len(stream):
            stream += b"\x00"  # a gap: what lies on either side must not be read as one
            stream += payload
        else:
            stream += payload[len(stream) - offset :]
    return bytes(stream)
