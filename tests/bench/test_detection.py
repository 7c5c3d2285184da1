"""The bench of detection: every row has a figure, and what it measures is what it says."""

from agent.tls.client_hello import MAX_RECORDS, Malformed, NeedMore, parse
from bench.detection import announced, rows


def test_each_way_of_arriving_has_its_figure() -> None:
    found = dict(rows(sizes=(200, 400), rounds=1, hellos=2))
    assert len(found) == 5
    assert all(value > 0 for value in found.values())


def test_what_arrives_is_undecided_up_to_its_last_byte() -> None:
    for records in (1, MAX_RECORDS):
        stream = announced(1000, records)
        assert stream.count(b"\x16\x03\x01") == records
        assert isinstance(parse(stream[:-1]), NeedMore)
        assert isinstance(parse(stream), Malformed)
