"""What is said about recorded frames: nothing that crossed the wire is overlooked, and nothing is made up."""

import ipaddress
import itertools
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lab.frames import Flow, Frames, Segment, WireError
from tests.tls.test_client_hello_rules import hello, record

CLIENT, SERVER = "192.0.2.1", "192.0.2.2"
CLIENT6, SERVER6 = "2001:db8::1", "2001:db8::2"
FLOW = Flow(CLIENT, 40000, SERVER, 8080)
MARKER = b"marker-0123456789"
TCP, UDP = 6, 17
TOP = 1 << 32
"""Sequence numbers begin again here (RFC 9293, section 3.4)."""


def frame(
    payload: bytes,
    sequence: int = 1000,
    *,
    flow: Flow = FLOW,
    protocol: int = TCP,
    length: int | None = None,
    ip_options: bytes = b"",
    tcp_options: bytes = b"",
    behind: bytes = b"",
) -> bytes:
    """An Ethernet frame with a TCP segment; `length` is what its IP header says in place of the truth."""
    ports = (flow.source_port, flow.destination_port)
    offset = (20 + len(tcp_options)) // 4 << 4
    tcp = struct.pack("!HHIIBBHHH", *ports, sequence % TOP, 0, offset, 0x18, 0, 0, 0) + tcp_options
    source, destination = ipaddress.ip_address(flow.source), ipaddress.ip_address(flow.destination)
    if source.version == 4:
        header = 20 + len(ip_options)
        total = header + len(tcp) + len(payload) if length is None else length
        ip = struct.pack("!BBHIBBH", 0x40 | header // 4, 0, total, 0, 64, protocol, 0)
        ip += source.packed + destination.packed + ip_options
        kind = 0x0800
    else:
        total = len(tcp) + len(payload) if length is None else length
        ip = struct.pack("!IHBB", 0x60000000, total, protocol, 64) + source.packed + destination.packed
        kind = 0x86DD
    return bytes(12) + struct.pack("!H", kind) + ip + tcp + payload + behind


@pytest.mark.parametrize("flow", [FLOW, Flow(CLIENT6, 1, SERVER6, 65535)])
def test_a_segment_has_its_addresses_ports_sequence_and_data(flow: Flow) -> None:
    assert Frames([frame(b"data", 7, flow=flow)]).segments() == [Segment(flow, 7, b"data")]


def test_headers_with_options_are_passed_over() -> None:
    odd = frame(b"data", 7, ip_options=bytes(8), tcp_options=bytes(12))
    assert Frames([odd]).segments() == [Segment(FLOW, 7, b"data")]


@pytest.mark.parametrize("flow", [FLOW, Flow(CLIENT6, 1, SERVER6, 2)])
def test_what_ethernet_pads_a_short_frame_with_is_no_data(flow: Flow) -> None:
    assert Frames([frame(b"ab", flow=flow, behind=bytes(6))]).streams() == {flow: b"ab"}
    assert Frames([frame(b"", flow=flow, behind=bytes(6))]).segments() == []


@pytest.mark.parametrize("flow", [FLOW, Flow(CLIENT6, 1, SERVER6, 2)])
def test_a_segment_that_offloads_made_too_long_for_its_length_is_read_to_the_end(flow: Flow) -> None:
    long = bytes(70_000)
    assert Frames([frame(long, flow=flow, length=0)]).streams() == {flow: long}


@pytest.mark.parametrize(
    "other",
    [
        frame(b"data", protocol=UDP),
        frame(b"data", protocol=UDP, flow=Flow(CLIENT6, 1, SERVER6, 2)),
        bytes(12) + b"\x08\x06" + bytes(28),
        b"",
    ],
)
def test_what_is_no_tcp_is_no_segment(other: bytes) -> None:
    assert Frames([other]).segments() == []


@pytest.mark.parametrize("flow", [FLOW, Flow(CLIENT6, 1, SERVER6, 2)])
def test_a_frame_that_ends_within_its_headers_has_no_data_and_stops_nobody(flow: Flow) -> None:
    whole = frame(b"", flow=flow)
    for length in range(len(whole)):
        assert Frames([whole[:length], frame(b"next", flow=flow)]).streams() == {flow: b"next"}


@given(st.binary(max_size=80))
def test_whatever_follows_a_header_of_ethernet_is_read_without_a_fault(body: bytes) -> None:
    for kind in (b"\x08\x00", b"\x86\xdd"):
        assert len(Frames([bytes(12) + kind + body]).segments()) <= 1


def test_segments_of_an_address_are_those_from_it_and_to_it() -> None:
    back = Flow(SERVER, 8080, CLIENT, 40000)
    other = Flow("192.0.2.3", 1, SERVER, 8080)
    frames = Frames([frame(b"a"), frame(b"b", flow=back), frame(b"c", flow=other)])
    assert [each.payload for each in frames.segments_of(CLIENT)] == [b"a", b"b"]


# streams


@given(st.data())
def test_a_stream_is_whole_however_it_was_cut_mixed_and_repeated(data: st.DataObject) -> None:
    sent = data.draw(st.binary(min_size=1, max_size=60))
    begin = data.draw(st.sampled_from([0, 1000, TOP - 30, TOP - 1]))
    cuts = sorted({0, len(sent), *data.draw(st.lists(st.integers(0, len(sent)), max_size=8))})
    pieces = [(low, sent[low:high]) for low, high in itertools.pairwise(cuts)]
    again = data.draw(st.lists(st.tuples(st.integers(0, len(sent) - 1), st.integers(1, 20)), max_size=4))
    pieces += [(low, sent[low : low + size]) for low, size in again]
    mixed = data.draw(st.permutations(pieces))
    assert Frames([frame(part, begin + low) for low, part in mixed]).streams() == {FLOW: sent}


def test_what_lies_on_either_side_of_a_gap_is_not_read_as_one() -> None:
    half = len(MARKER) // 2
    frames = Frames([frame(MARKER[:half], 1000), frame(MARKER[half:], 1000 + half + 5)])
    assert frames.streams() == {FLOW: MARKER[:half] + b"\0" + MARKER[half:]}
    assert not frames.contains(MARKER)


def test_a_marker_that_is_cut_in_two_behind_a_gap_is_found() -> None:
    """As in a second connection with the same four numbers: it begins anywhere."""
    half = len(MARKER) // 2
    frames = Frames([frame(b"first", 1000), frame(MARKER[:half], 500_000), frame(MARKER[half:], 500_000 + half)])
    assert frames.streams() == {FLOW: b"first\0" + MARKER}
    assert frames.contains(MARKER)


# markers


@pytest.mark.parametrize("size", [1, 5, len(MARKER)])
def test_a_marker_is_found_in_whatever_pieces_it_crossed(size: int) -> None:
    pieces = [frame(MARKER[at : at + size], 1000 + at) for at in range(0, len(MARKER), size)]
    assert Frames(pieces[::-1]).contains(MARKER)
    assert not Frames(pieces[1:]).contains(MARKER)


def test_a_marker_is_found_in_what_is_no_tcp() -> None:
    assert Frames([frame(MARKER, protocol=UDP)]).contains(MARKER)


def test_directions_are_not_mixed() -> None:
    half = len(MARKER) // 2
    back = Flow(SERVER, 8080, CLIENT, 40000)
    assert not Frames([frame(MARKER[:half], 1000), frame(MARKER[half:], 1000 + half, flow=back)]).contains(MARKER)


def test_a_capture_that_lost_frames_proves_no_absence_and_still_shows_what_it_has() -> None:
    frames = Frames([frame(MARKER)], lost=3)
    assert frames.contains(MARKER)
    for ask in (frames.segments, frames.streams, frames.client_hellos, lambda: frames.contains(b"another")):
        with pytest.raises(WireError, match="lost 3 frames"):
            ask()


# ClientHellos


def test_flows_that_begin_with_a_client_hello_are_told() -> None:
    sent = record(hello())
    plain = Flow(SERVER, 8080, CLIENT, 40000)
    later = Flow(CLIENT, 40001, SERVER, 8080)
    frames = Frames(
        [
            *(frame(sent[:20], 1), frame(sent[20:], 21)),
            frame(b"HTTP/1.1 200 OK\r\n", flow=plain),
            frame(b"GET / HTTP/1.1\r\n" + sent, flow=later),
        ]
    )
    (found,) = frames.client_hellos()
    assert (found.flow, found.hello.server_name) == (FLOW, "web.demo")


def test_half_a_client_hello_is_none() -> None:
    assert Frames([frame(record(hello())[:40])]).client_hellos() == []


# files


def test_a_saved_capture_is_a_pcap_file_of_ethernet_frames(tmp_path: Path) -> None:
    frames = [frame(b"one"), frame(b"two", flow=Flow(CLIENT6, 1, SERVER6, 2))]
    Frames(frames).save(tmp_path / "x.pcap")
    data = (tmp_path / "x.pcap").read_bytes()
    magic, major, minor, _, _, snap, link = struct.unpack_from("<IHHiIII", data)
    assert (magic, major, minor, link) == (0xA1B2C3D4, 2, 4, 1)
    at, read = 24, []
    while at < len(data):
        kept, length = struct.unpack_from("<II", data, at + 8)
        assert kept == length <= snap
        read.append(data[at + 16 : at + 16 + kept])
        at += 16 + kept
    assert read == frames
