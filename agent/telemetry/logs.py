"""Log lines on stderr: JSON for machines, text for people. One write per line, so that processes do not mix theirs."""

import asyncio
import logging
import os
import select
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

FIELDS = "fields"
"""`extra={"fields": {...}}` adds fields to a line."""

FAULTS_AT_ONCE = 5
"""Tracebacks of one kind that are logged within FAULT_SECONDS; more are counted and told in one line."""

FAULT_SECONDS = 10.0

MAX_KINDS = 256
"""Kinds of faults that are told apart within FAULT_SECONDS; more share one bound."""

READER_SECONDS = 0.05
"""How long a line waits for whoever reads the log, once in READER_PAUSE_SECONDS at most; then lines are lost."""

READER_PAUSE_SECONDS = 1.0

_encode = msgspec.json.Encoder(enc_hook=str).encode


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ts (RFC 3339, UTC), level, logger, msg, process, node, the line's own fields."""

    def __init__(self, node: str | None, process: str) -> None:
        super().__init__()
        self._fixed: dict[str, Any] = {"process": process} | ({} if node is None else {"node": node})

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
        line: dict[str, Any] = {
            "ts": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
            **self._fixed,
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return _encode(line).decode()


class TextFormatter(logging.Formatter):
    """A short line for people; control characters are escaped, so that nobody forges lines."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline; a traceback follows on lines of its own."""
        fields = "".join(
            f" {key}={value}"
            for key, value in getattr(record, FIELDS, {}).items()
            if value is not None and value != "" and str(value) not in record.getMessage()
        )
        text = printable(f"{record.getMessage()}{fields}")
        line = f"{_timestamp(record)[11:23]} {record.levelname.lower():8}{self._process}: {text}"
        if record.exc_info and record.exc_info[0] is not None:
            line += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return line


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def printable(text: str) -> str:
    """The text with control characters escaped: what a stranger could choose forges no line, and moves no cursor."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class StderrHandler(logging.Handler):
    """Writes each line by one write(2), a longer one than a pipe takes at once (PIPE_BUF) by several.

    A stderr that is gone, or that nobody reads, loses lines, not the agent: nobody's connection waits for a log. How
    many were lost is the next line.
    """

    def __init__(self) -> None:
        super().__init__()
        self._poll = select.poll()
        self._poll.register(2, select.POLLOUT)
        self._waited_at = float("-inf")
        self._lost = 0
        self._cut = False
        """The last line was not written to its end."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record."""
        try:
            if self._lost and self._takes_more():
                words = "%d lines were lost: whoever reads the log was too slow"
                told = logging.LogRecord("quietwire", logging.WARNING, __file__, 0, words, (self._lost,), None)
                if self._write(self.format(told)):
                    self._lost = 0
            if not self._write(self.format(record)):
                self._lost += 1
        except OSError:
            return  # nobody reads: there is nowhere to say so
        except Exception:  # noqa: BLE001 - logging's own convention: reported, never raised into the caller
            self.handleError(record)

    def _write(self, line: str) -> bool:
        """Whether all of it was taken. Raises OSError."""
        data = memoryview((("\n" if self._cut else "") + line + "\n").encode("utf-8", "backslashreplace"))
        begun = False
        while data:
            if not self._takes_more():
                self._cut = self._cut or begun
                return False
            data = data[os.write(2, data[: select.PIPE_BUF]) :]
            self._cut, begun = False, True
        return True

    def _takes_more(self) -> bool:
        """Whether PIPE_BUF bytes would be taken without a wait (pipe(7)), or are after a short one."""
        if self._poll.poll(0):
            return True
        now = time.monotonic()
        if now - self._waited_at < READER_PAUSE_SECONDS:
            return False
        self._waited_at = now
        return bool(self._poll.poll(READER_SECONDS * 1000))


class Kind(NamedTuple):
    """What makes two faults the same: who logged it, the exception, where it was raised. Words tell of addresses."""

    logger: str
    error: str
    place: str

    @classmethod
    def of(cls, record: logging.LogRecord) -> "Kind | None":
        """The kind of a line; None where it tells of no exception."""
        if not record.exc_info or record.exc_info[0] is None:
            return None
        error, _, trace = record.exc_info
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        return cls(record.name, error.__name__, place)


_OTHERS = Kind("quietwire", "of other kinds", "several places")


class FaultLimit(logging.Filter):
    """Lets lines with a traceback through at a bounded rate: a stranger who finds a fault of ours fills no disk.

    What was suppressed is told when its time is over: by the running loop's clock where there is a loop, and before the
    next line in any case.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[Kind, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        self.tell_suppressed()
        kind = Kind.of(record)
        if kind is None:
            return True
        if kind not in self._windows and len(self._windows) >= MAX_KINDS:
            kind = _OTHERS
        since, count = self._windows.get(kind, (self._clock(), 0))
        self._windows[kind] = (since, count + 1)
        if count == FAULTS_AT_ONCE:
            self._tell_later()
        return count < FAULTS_AT_ONCE

    def tell_suppressed(self) -> None:
        """Says how much was not logged in times that are over."""
        now = self._clock()
        over = [(kind, count) for kind, (since, count) in self._windows.items() if now - since >= FAULT_SECONDS]
        for kind, _ in over:
            del self._windows[kind]
        for kind, count in over:
            if count > FAULTS_AT_ONCE:
                logging.getLogger(kind.logger).error(
                    "%d more faults were not logged: %s at %s",
                    count - FAULTS_AT_ONCE,
                    kind.error,
                    kind.place,
                    extra={FIELDS: {"event": "suppressed"}},
                )

    def _tell_later(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # a thread without a loop: the next line tells it
        loop.call_later(FAULT_SECONDS, self.tell_suppressed)


def configure(form: str, level: str, *, process: str, node: str | None = None) -> None:
    """Sets this process's logging up. `form` is `json` or `text`."""
    handler = StderrHandler()
    handler.addFilter(FaultLimit())
    handler.setFormatter(JsonFormatter(node, process) if form == "json" else TextFormatter(process))
    root = logging.getLogger()
    for former in list(root.handlers):
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    for noisy in ("asyncio", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    sys.excepthook = _log_uncaught


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("quietwire").critical("the process ends by a fault", exc_info=(kind, error, trace))
