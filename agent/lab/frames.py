"""What recorded Ethernet frames say: the TCP data in them, put in order, and the ClientHellos that flows begin with."""

import socket
import struct
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from agent.tls.client_hello import ClientHello, parse

SNAP = 262144
"""Bytes kept of a frame: more than the largest that offloads put together."""
TCP = 6
PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, SNAP, 1)


class WireError(Exception):
    """The recording cannot be trusted; `str` says why."""


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


class Frames:
    """Frames as they were recorded, each with its Ethernet header, and how many were lost."""

    def __init__(self, frames: list[bytes] | None = None, lost: int = 0) -> None:
        self.frames = [] if frames is None else frames
        self.lost = lost

    def segments(self) -> list[Segment]:
        """Every TCP segment with data. Raises WireError where frames were lost."""
        if self.lost:
            raise WireError(f"the recording lost {self.lost} frames and proves nothing")
        found = (_segment(frame) for frame in self.frames)
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
        return any(marker in frame for frame in self.frames) or any(
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
            for frame in self.frames:
                file.write(struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame)


def _segment(frame: bytes) -> Segment | None:
    """The data of a frame; None where it has none, is no TCP, or ends within its headers, as a stranger's may."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == 0x0800 and len(frame) >= 34:
        start = 14 + (frame[14] & 0x0F) * 4
        if frame[23] != TCP:
            return None
        end = 14 + int.from_bytes(frame[16:18], "big")
        addresses = (socket.inet_ntop(socket.AF_INET, frame[26:30]), socket.inet_ntop(socket.AF_INET, frame[30:34]))
    elif kind == 0x86DD and len(frame) >= 54:
        start = 54
        if frame[20] != TCP:
            return None
        end = 54 + int.from_bytes(frame[18:20], "big")
        addresses = (socket.inet_ntop(socket.AF_INET6, frame[22:38]), socket.inet_ntop(socket.AF_INET6, frame[38:54]))
    else:
        return None
    if len(frame) < start + 20:
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
    reached = 0
    for sequence in sorted(parts, key=lambda each: (each - first) & 0xFFFFFFFF):
        offset = (sequence - first) & 0xFFFFFFFF
        if offset > reached:
            stream += b"\x00"  # a gap: what lies on either side must not be read as one
            reached = offset
        payload = parts[sequence][reached - offset :]
        stream += payload
        reached += len(payload)
    return bytes(stream)
