"""Log lines on stderr: JSON for machines, text for people. One write per line, so that processes do not mix theirs."""

import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import msgspec

FIELDS = "fields"
"""`extra={"fields": {...}}` adds fields to a line."""

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
    """Writes each line by one write(2). A stderr that is gone loses lines, not the agent."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record."""
        try:
            data = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
            os.write(2, data)
        except OSError:
            return  # nobody reads: there is nowhere to say so
        except Exception:  # noqa: BLE001 - logging's own convention: reported, never raised into the caller
            self.handleError(record)


def configure(form: str, level: str, *, process: str, node: str | None = None) -> None:
    """Sets this process's logging up. `form` is `json` or `text`."""
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter(node, process) if form == "json" else TextFormatter(process))
    root = logging.getLogger()
    for former in list(root.handlers):
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    for noisy in ("asyncio", "httpx2", "httpcore2", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    sys.excepthook = _log_uncaught


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("quietwire").critical("the process ends by a fault", exc_info=(kind, error, trace))
