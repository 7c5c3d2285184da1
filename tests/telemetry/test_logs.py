"""Lines that nobody can forge, faults at a bounded rate, and a stderr that holds nobody up."""

import asyncio
import json
import logging
import os
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.telemetry.logs import (
    FAULT_SECONDS,
    FAULTS_AT_ONCE,
    MAX_KINDS,
    FaultLimit,
    JsonFormatter,
    StderrHandler,
    TextFormatter,
)


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
