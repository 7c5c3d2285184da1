"""What the operator sees: lines that nobody can forge, counters that never fall, a server that always answers."""

import asyncio
import json
import logging
import os
import threading
from collections.abc import AsyncIterator, Iterator, Mapping

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.objects.key import PodKey
from agent.outcome import Outcome
from agent.telemetry.access import DENIALS_PER_SECOND, AccessLog, ConnectionRecord
from agent.telemetry.admin import MAX_HEADER, AdminServer, Response
from agent.telemetry.counters import Counters, CounterTotals
from agent.telemetry.logs import (
    FAULT_SECONDS,
    FAULTS_AT_ONCE,
    MAX_KINDS,
    FaultLimit,
    JsonFormatter,
    StderrHandler,
    TextFormatter,
)
from agent.telemetry.metrics import Metrics


def line(message: str, **fields: object) -> logging.LogRecord:
    record = logging.LogRecord("quietwire.test", logging.WARNING, __file__, 1, message, (), None)
    record.fields = fields
    return record


@given(
    st.text(),
    st.dictionaries(
        st.text(min_size=1).filter(lambda key: key not in {"ts", "level", "logger", "msg", "node", "process"}),
        st.text(),
    ),
)
def test_a_json_line_is_one_line_whatever_it_says(message: str, fields: dict[str, str]) -> None:
    try:
        (message + "".join(fields) + "".join(fields.values())).encode()
    except UnicodeEncodeError:
        return
    text = JsonFormatter("node-a", "worker 0").format(line(message, **fields))
    assert "\n" not in text
    said = json.loads(text)
    assert said["msg"] == message
    assert fields.items() <= said.items()
    assert (said["level"], said["node"], said["process"]) == ("warning", "node-a", "worker 0")


@given(st.text(), st.text())
def test_a_text_line_cannot_be_forged(message: str, value: str) -> None:
    text = TextFormatter("worker 0").format(line(message, value=value))
    assert all(char.isprintable() for char in text)


def test_a_traceback_is_a_field() -> None:
    try:
        raise ValueError("inside")
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, __file__, 1, "it failed", (), (ValueError, error, error.__traceback__)
        )
    assert "ValueError: inside" in json.loads(JsonFormatter(None, "x").format(record))["traceback"]


class Kept(logging.Handler):
    """Keeps the messages that its filter lets through."""

    def __init__(self, limit: FaultLimit) -> None:
        super().__init__()
        self.addFilter(limit)
        self.said: list[str] = []
        self.told = asyncio.Event()
        """Something that was suppressed has been told."""

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
        if "were not logged" in self.said[-1]:
            self.told.set()


@pytest.fixture
def kept() -> Iterator[tuple[Kept, list[float]]]:
    """What the root logger's handler writes, and its clock."""
    now = [100.0]
    handler = Kept(FaultLimit(lambda: now[0]))
    root = logging.getLogger()
    root.addHandler(handler)
    yield handler, now
    root.removeHandler(handler)


def fail(number: int, error: type[Exception] = ValueError) -> None:
    try:
        raise error
    except error:
        logging.getLogger("quietwire.test").exception("the connection of 192.0.2.%d failed", number)


def test_faults_of_one_kind_are_logged_at_a_bounded_rate_and_the_rest_is_told(kept: tuple[Kept, list[float]]) -> None:
    handler, now = kept
    for number in range(500):
        fail(number)
    assert len(handler.said) == FAULTS_AT_ONCE
    fail(0, KeyError)
    logging.getLogger("quietwire.test").error("no traceback")
    assert len(handler.said) == FAULTS_AT_ONCE + 2, "one kind hides no other, and no line that is no fault"
    now[0] += FAULT_SECONDS
    fail(1)
    assert handler.said[-2].startswith(f"{500 - FAULTS_AT_ONCE} more faults were not logged: ValueError at {__file__}")
    assert handler.said[-1] == "the connection of 192.0.2.1 failed"
    now[0] += FAULT_SECONDS
    logging.getLogger("quietwire.test").error("more")
    assert handler.said[-1] == "more", "told once"
    assert len(handler.said) == FAULTS_AT_ONCE + 5


async def test_what_was_not_logged_of_faults_is_told_though_nothing_more_comes(
    kept: tuple[Kept, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, now = kept
    monkeypatch.setattr("agent.telemetry.logs.FAULT_SECONDS", 0.001)
    for number in range(FAULTS_AT_ONCE + 7):
        fail(number)
    now[0] += FAULT_SECONDS
    async with asyncio.timeout(10):
        await handler.told.wait()
    assert handler.said[-1].startswith("7 more faults were not logged")


def test_a_crowd_of_kinds_shares_a_bound(kept: tuple[Kept, list[float]]) -> None:
    handler, _ = kept
    for number in range(MAX_KINDS + 100):
        fail(number, type(f"Error{number}", (Exception,), {}))
    assert len(handler.said) == MAX_KINDS + FAULTS_AT_ONCE


def record(outcome: Outcome, event: str = "denied", pod: str = "demo/api") -> ConnectionRecord:
    return ConnectionRecord(event, "inbound", PodKey(pod), "192.0.2.1:1", "192.0.2.2:80", "plain", outcome, "because")


def test_denials_are_always_logged_and_the_rest_only_if_wanted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "quietwire.access")
    for enabled in (False, True):
        log = AccessLog(enabled=enabled)
        log.record(record(Outcome.UNAUTHENTICATED))
        log.record(record(Outcome.COMPLETED, "closed"))
    assert [entry.levelno for entry in caplog.records] == [logging.WARNING, logging.WARNING, logging.INFO]


def test_a_flood_of_denials_is_bounded_and_the_rest_is_counted_in_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [100.0]
    log = AccessLog(enabled=False, clock=lambda: now[0])
    for _ in range(500):
        log.record(record(Outcome.UNAUTHENTICATED))
    log.record(record(Outcome.UNAUTHENTICATED, pod="demo/other"))
    assert len(caplog.records) == DENIALS_PER_SECOND + 1
    now[0] += 1
    log.record(record(Outcome.UNAUTHENTICATED))
    assert f"{500 - DENIALS_PER_SECOND} more denials of demo/api" in caplog.records[-2].getMessage()


def test_counters_never_fall_when_a_worker_is_replaced() -> None:
    totals = CounterTotals()
    counters = Counters()
    counters.opened("inbound", "mtls")
    counters.denied("inbound", Outcome.UNAUTHENTICATED)
    counters.moved("inbound", 10, 20)
    totals.update(0, 1, counters.snapshot())
    totals.update(0, 1, counters.snapshot())
    fresh = Counters()
    fresh.opened("inbound", "mtls")
    totals.update(0, 2, fresh.snapshot())
    totals.update(0, 1, counters.snapshot())  # late news of the dead one
    totals.update(1, 1, fresh.snapshot())
    assert dict(totals.items()) == {
        ("opened", "inbound", "mtls"): 3,
        ("denied", "inbound", "unauthenticated"): 1,
        ("bytes", "inbound", "sent"): 10,
        ("bytes", "inbound", "received"): 20,
    }


def test_the_metrics_page_has_every_family() -> None:
    totals = CounterTotals()
    counters = Counters()
    counters.opened("outbound", "plain")
    counters.closed("outbound", Outcome.COMPLETED)
    totals.update(0, 1, counters.snapshot())
    page = Metrics(totals).render(
        live={"inbound": 3}, expiries={"spiffe://a/b": 5.0}, worker_restarts={"hung": 1}, rule_repairs=2,
        pods={"captured": 4},
        ports_occupied={PodKey("demo/a"): ["0.0.0.0:4143"]},
        conntrack_used=0.25,
        foreign_nat=6,
        catalog_version=7, catalog_faults=0, identity_faults=5, policy_warnings=2,
        above={"issuer": 9.0, "root aa": 9.0 + 8 * 86400}, bundle_sequence=3,
        clock_skew=-2.0,
        authority_restarts=0,
        now=8.0,
    ).decode()  # fmt: skip
    for wanted in (
        'quietwire_connections_opened_total{direction="outbound",security="plain"} 1.0',
        'quietwire_connections_closed_total{direction="outbound",outcome="completed"} 1.0',
        'quietwire_connections_live{direction="inbound"} 3.0',
        'quietwire_certificate_expiry_timestamp_seconds{spiffe_id="spiffe://a/b"} 5.0',
        'quietwire_pods{state="captured"} 4.0',
        "quietwire_conntrack_used_ratio 0.25",
        'quietwire_worker_restarts_total{reason="hung"} 1.0',
        "quietwire_pods_with_foreign_nat 6.0",
        "quietwire_catalog_version 7.0",
        "quietwire_identity_faults 5.0",
        'quietwire_authority_expiry_timestamp_seconds{certificate="issuer"} 9.0',
        'quietwire_authority_expiry_warning{certificate="issuer"} 2.0',
        'quietwire_authority_expiry_warning{certificate="root aa"} 1.0',
        "quietwire_bundle_sequence 3.0",
        "quietwire_clock_skew_seconds -2.0",
    ):
        assert wanted in page


@pytest.fixture
async def server() -> AsyncIterator[AdminServer]:
    async def live(query: Mapping[str, str]) -> Response:
        return Response.text("alive\n")

    made = AdminServer({"/live": live})
    await made.start("127.0.0.1", 0)
    yield made
    await made.close()


async def ask(server: AdminServer, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /live HTTP/1.1", b"200"),
        (b"HEAD /live HTTP/1.1", b"200"),
        (b"GET /live?x=1 HTTP/1.1", b"200"),
        (b"GET /nothing HTTP/1.1", b"404"),
        (b"POST /live HTTP/1.1", b"405"),
        (b"nonsense", b"400"),
    ],
)
async def test_the_admin_server_answers(server: AdminServer, request_line: bytes, status: bytes) -> None:
    answer = await ask(server, request_line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.split(b" ")[1] == status


async def test_a_header_without_end_is_refused(server: AdminServer) -> None:
    answer = await ask(server, b"GET /live HTTP/1.1\r\nx: " + b"y" * (2 * MAX_HEADER))
    assert answer.split(b" ")[1] == b"431"


async def test_a_connection_is_kept_alive(server: AdminServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for _ in range(3):
        writer.write(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target="/live", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        body = b""
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                client.receive_data(await reader.read(1000))
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
        assert body == b"alive\n"
    writer.close()
    await writer.wait_closed()


def test_a_stderr_that_is_gone_does_not_end_the_process() -> None:
    read, write = os.pipe()
    os.close(read)
    kept = os.dup(2)
    os.dup2(write, 2)
    try:
        handler = StderrHandler()
        handler.setFormatter(TextFormatter("x"))
        handler.emit(line("into nowhere"))
    finally:
        os.dup2(kept, 2)
        for fd in (kept, write):
            os.close(fd)


def test_a_stderr_that_nobody_reads_stops_nobody_and_what_was_lost_is_told() -> None:
    read, write = os.pipe()
    kept = os.dup(2)
    os.dup2(write, 2)
    handler = StderrHandler()
    handler.setFormatter(TextFormatter("x"))
    lines = 1000

    def write_all() -> None:
        for _ in range(lines):
            handler.emit(line("x" * 500))

    writer = threading.Thread(target=write_all, daemon=True)
    try:
        writer.start()
        writer.join(30)
        stopped = writer.is_alive()
        said = b""
        while len(said) < 16384:
            said += os.read(read, 16384)
        writer.join(30)
        os.set_blocking(read, False)
        while len(more := os.read(read, 65536)) == 65536:
            said += more
        said += more
        handler.emit(line("again"))
        after = os.read(read, 65536).decode()
    finally:
        os.dup2(kept, 2)
        for fd in (kept, read, write):
            os.close(fd)
    assert not stopped, "whoever logs is held up by whoever does not read"
    lost = lines - said.count(b"x" * 500)
    assert lost > 0
    assert f"{lost} lines were lost" in after
    assert after.endswith("again\n")


def test_a_line_that_is_longer_than_a_pipe_takes_at_once_stops_nobody_either() -> None:
    read, write = os.pipe()
    kept = os.dup(2)
    os.dup2(write, 2)
    handler = StderrHandler()
    handler.setFormatter(TextFormatter("x"))
    writer = threading.Thread(target=lambda: handler.emit(line("y" * 1_000_000)), daemon=True)
    try:
        writer.start()
        writer.join(30)
        stopped = writer.is_alive()
        os.set_blocking(read, False)
        os.read(read, 1 << 20)
        handler.emit(line("again"))
        after = os.read(read, 1 << 20).decode()
    finally:
        os.dup2(kept, 2)
        for fd in (kept, read, write):
            os.close(fd)
    assert not stopped
    assert after.startswith("\n"), "what was cut off ends its line"
    assert after.endswith("again\n")
