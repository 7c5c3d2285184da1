"""What the demo says of itself: a step that is false is told, and is the exit status."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.cli import demo
from agent.cli.demo import play
from agent.cli.demo.story import Step

KEYS = ("reached", "encrypted", "identities", "stranger_refused", "policy_live", "fail_closed")


class Told:
    """A story that was played, with one false step or none."""

    false = ""

    def __init__(self, _directory: Path, tell: Any) -> None:
        self._tell = tell

    def set_up(self) -> None:
        return

    def play(self) -> list[Step]:
        steps = [Step(key, f"the step {key}", key != self.false, {"seen": f"of {key}"}) for key in KEYS]
        for step in steps:
            self._tell(step)
        return steps

    def close(self) -> None:
        return


@pytest.mark.parametrize("false", ["", *KEYS])
@pytest.mark.parametrize("as_json", [True, False])
def test_any_false_step_is_told_and_exits_with_1(
    false: str, as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Told, "false", false)
    monkeypatch.setattr(play, "Story", Told)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        demo.demo(as_json=as_json)
    assert ended.value.code == (1 if false else 0)
    said = capsys.readouterr().out
    if as_json:
        report = json.loads(said)
        assert report["ok"] is not bool(false)
        assert [key for key in KEYS if not report[key]["ok"]] == ([false] if false else [])
        assert all(report[key]["evidence"] == {"seen": f"of {key}"} for key in KEYS)
    else:
        assert (f"the step {false}: NO" in said) is bool(false)
        assert f"{6 - bool(false)} of 6 as they should be." in said
