"""policy.md, sentence by sentence: manifests, who asks for what, and the answer with its reason.

The tables are in `cases/*.yaml`; `cases/README.md` says how to read them.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec import Struct

from agent.outcome import Outcome
from agent.policy.index import PROBE
from agent.policy.model import Denial
from tests.policy.world import World, client, manifest, text_of, verdict

CASES = Path(__file__).parent / "cases"
EVERYWHERE = CASES / "everywhere.yaml"
_ANSWER = re.compile(r"(?P<verdict>allow|audit|deny)(?: (?P<outcome>\w+))?(?: by (?P<by>.+?))?(?: at (?P<at>.+))?")
_UNCONSIDERED = {Outcome.DENIED_BY_DEFAULT, Outcome.ROUTE_LEVEL_ONLY}


class Scenario(Struct, frozen=True):
    """Some manifests, and everything that is asked of them."""

    name: str
    text: str
    flags: dict[str, Any]


class Row(Struct, frozen=True):
    """One question and its answer. `lacks`: what is considered, and words of what each lacked."""

    scenario: Scenario
    client: str
    pod: str
    port: int
    answer: str
    lacks: dict[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.scenario.name}: {self.client} -> {self.pod}:{self.port}: {self.answer}"


@cache
def world(name: str, text: str, flags: tuple[tuple[str, Any], ...]) -> World:
    """A scenario's world, made once for all its rows."""
    made = World(text, **dict(flags))
    assert made.faults == (), name
    return made


def rows_of(path: Path) -> list[Row]:
    everywhere, file = (yaml.safe_load(each.read_text(encoding="utf-8")) for each in (EVERYWHERE, path))
    found: list[Row] = []
    for entry in file["scenarios"]:
        objects = {**everywhere, **file.get("everywhere", {}), **entry.get("objects", {})}
        text = text_of(manifest(title, body) for title, body in objects.items())
        flags = {
            key: tuple(value) if isinstance(value, list) else value for key, value in entry.get("flags", {}).items()
        }
        scenario = Scenario(f"{path.stem}: {entry['it']}", text, flags)
        for ask, answer in entry["asks"].items():
            clients, _, target = ask.partition(" -> ")
            pod, _, port = target.rpartition(":")
            said = answer if isinstance(answer, dict) else {"says": answer}
            found.extend(
                Row(
                    scenario,
                    who.strip(),
                    pod if "/" in pod else f"demo/{pod}",
                    int(port),
                    said["says"],
                    said.get("lacks"),
                )
                for who in clients.split(",")
            )
    return found


ROWS = [row for path in sorted(set(CASES.glob("*.yaml")) - {EVERYWHERE}) for row in rows_of(path)]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_answer_is_the_one_that_policy_md_gives(row: Row) -> None:
    scenario = row.scenario
    made = world(scenario.name, scenario.text, tuple(scenario.flags.items()))
    answer = made.answer(client(row.client), row.pod, row.port)
    expected = _ANSWER.fullmatch(row.answer)
    assert expected is not None, f"{row.answer!r} is no answer"
    assert verdict(answer) == expected["verdict"], answer
    assert answer.decided_by, "whatever decided has a name"
    if expected["at"] is not None:
        assert answer.decided_by == expected["at"]
    considered = {each.authorization: each.lacked for each in answer.considered}
    if isinstance(answer, Denial):
        assert expected["by"] is None, "nothing lets in what is denied"
        if expected["outcome"] is not None:
            assert answer.outcome == Outcome(expected["outcome"]), answer
        assert f"{row.pod}:{row.port}" in answer.message
        assert bool(considered.keys() - {PROBE}) is (answer.outcome not in _UNCONSIDERED)
        assert all(considered.values()), "each names what it lacked"
    else:
        assert answer.authorization, "what allowed has a name"
        if expected["by"] is not None:
            assert answer.authorization == expected["by"]
    if row.lacks is not None:
        assert considered.keys() == row.lacks.keys()
        for authorization, words in row.lacks.items():
            assert words in considered[authorization]


def test_there_are_hundreds_of_rows_and_none_is_there_twice() -> None:
    assert len(ROWS) >= 400
    assert len({str(row) for row in ROWS}) == len(ROWS)
