"""What an operator types behind `quietwire`, run in this process: a process of its own takes a second to start."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from msgspec import Struct

from agent.cli.app import run


class Done(Struct, frozen=True):
    """What came of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def quietwire(*words: str | Path) -> Done:
    """Runs a command that ends by itself; no agent and no authority is started. What it raises is raised."""
    out, err = io.StringIO(), io.StringIO()
    serving = AssertionError("it would serve")
    with (
        mock.patch("agent.cli.work.node._serve", side_effect=serving),
        mock.patch("agent.cli.work.authority.running.run_authority", side_effect=serving),
        mock.patch("agent.cli.work.webhook._until_stopped", side_effect=serving),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        run([str(word) for word in words])
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())
