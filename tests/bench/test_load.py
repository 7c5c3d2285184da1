import pytest

from bench.ground import Address
from bench.load import Requests, Transfer, parse_iperf, parse_wrk, wrk_words
from bench.process import ProcessError


def test_the_report_is_found_among_what_wrk_prints() -> None:
    output = (
        "Running 10m test @ http://192.0.2.1:8080/\n"
        'report {"requests": 500, "seconds": 2.0, "bytes": 9, "p50": 80, "p99": 120, "p999": 300, "errors": 1}\n'
    )
    got = parse_wrk(output)
    assert got == Requests(500, 2.0, 9, 80, 120, 300, 1)
    assert got.rate == 250


def test_a_wrk_without_a_report_is_an_error_that_says_what_it_said() -> None:
    with pytest.raises(ProcessError, match="unable to connect"):
        parse_wrk("unable to connect to 192.0.2.1:8080")


def test_iperf_counts_at_the_receiver() -> None:
    got = parse_iperf('{"end": {"sum_sent": {"bytes": 9}, "sum_received": {"bytes": 1000000000, "seconds": 4.0}}}')
    assert got == Transfer(1_000_000_000, 4.0)
    assert got.gbit_per_second == 2.0


@pytest.mark.parametrize("output", ["", "{}", '{"error": "the server is busy"}'])
def test_an_iperf_without_a_result_is_an_error(output: str) -> None:
    with pytest.raises(ProcessError, match="no result"):
        parse_iperf(output)


def test_kept_connections_are_told_by_the_environment_and_others_by_a_header() -> None:
    address = Address("192.0.2.1", 8080)
    kept = wrk_words(address, "/", 64, {"BENCH_HEAD_START": 0.5, "BENCH_CONNECTIONS": 64, "BENCH_RATE": 1200})
    assert kept[:4] == ["env", "BENCH_HEAD_START=0.5", "BENCH_CONNECTIONS=64", "BENCH_RATE=1200"]
    assert "Connection: close" not in kept
    assert kept[-1] == "http://192.0.2.1:8080/"
    assert "Connection: close" in wrk_words(address, "/", 64, {})
