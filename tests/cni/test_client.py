"""The program that a container runtime runs, as it is: what it sends, repeats, and says when nobody answers."""

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agent.cni
from agent.cni.request import SUPPORTED, Code, answer, parse
from tests.cni.asked import POD, configuration, environment, frame, result

PROGRAM = Path(agent.cni.__file__).with_name("quietwire-cni")
ADDRESS = "192.0.2.7/24"


class Agent:
    """Somebody who listens where an agent would: what was asked, and each answer in turn; b"" hangs up."""

    def __init__(self, path: Path, *answers: bytes) -> None:
        self.asked: list[bytes] = []
        self._answers = answers
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for each in self._answers:
            client, _ = self._listener.accept()
            with client:
                data = b""
                while chunk := client.recv(65536):
                    data += chunk
                self.asked.append(data)
                client.sendall(each)

    def close(self) -> None:
        self._thread.join(10)
        self._listener.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cni.sock"


@pytest.fixture
def agents(path: Path) -> Iterator[Callable[..., Agent]]:
    made: list[Agent] = []

    def make(*answers: bytes) -> Agent:
        made.append(Agent(path, *answers))
        return made[-1]

    yield make
    for each in made:
        each.close()


def run(variables: dict[str, str], given: Any) -> tuple[int, str]:
    data = given if isinstance(given, bytes) else json.dumps(given).encode()
    done = subprocess.run([str(PROGRAM)], input=data, env=variables, capture_output=True, timeout=60, check=False)
    assert done.stderr == b""
    return done.returncode, done.stdout.decode()


def test_it_depends_on_nothing() -> None:
    """A static program has no interpreter that would load libraries: no PT_INTERP among its headers (elf(5))."""
    raw = PROGRAM.read_bytes()
    offset, size, count = (int.from_bytes(raw[at : at + n], "little") for at, n in ((32, 8), (54, 2), (56, 2)))
    kinds = {int.from_bytes(raw[offset + size * at :][:4], "little") for at in range(count)}
    assert 1 in kinds
    assert 3 not in kinds
    assert os.access(PROGRAM, os.X_OK)


def test_it_hands_over_what_it_was_given_and_repeats_the_answer(path: Path, agents: Callable[..., Agent]) -> None:
    printed = json.dumps(result(ADDRESS))
    asked = agents(answer(0, printed.encode()))
    given, variables = configuration(ADDRESS, socket=str(path)), environment("ADD")
    assert run(variables | {"HOME": "/root", "TOKEN": "secret"}, given) == (0, printed)
    assert asked.asked == [frame(variables, given)]
    assert parse(asked.asked[0]).pod == "demo/api"


def test_an_error_is_repeated_with_its_exit_status(path: Path, agents: Callable[..., Agent]) -> None:
    agents(answer(1, b'{"code":11}\n'))
    assert run(environment("ADD"), configuration(ADDRESS, socket=str(path))) == (1, '{"code":11}\n')


def test_what_is_long_goes_whole_both_ways(path: Path, agents: Callable[..., Agent]) -> None:
    printed = b"x" * 1_000_000
    asked = agents(answer(0, printed))
    given = configuration(ADDRESS, socket=str(path), more="y" * 1_000_000)
    assert run(environment("ADD"), given) == (0, printed.decode())
    assert asked.asked == [frame(environment("ADD"), given)]


@pytest.mark.parametrize("half", [b"", b"0", b"0 5\n", b"0 5\nhal", b"2 0\n", b"x 0\n", b"0 1\nlonger", b"0 5" * 20])
def test_half_an_answer_is_none_and_it_asks_again(path: Path, agents: Callable[..., Agent], half: bytes) -> None:
    """An agent that ended in the middle of it: the next one is asked."""
    asked = agents(half, answer(0, b"whole"))
    assert run(environment("ADD"), configuration(ADDRESS, socket=str(path))) == (0, "whole")
    assert len(asked.asked) == 2


@pytest.mark.parametrize("command", ["DEL", "GC"])
def test_without_an_agent_what_undoes_succeeds(path: Path, command: str) -> None:
    assert run(environment(command), configuration(socket=str(path))) == (0, "")


@pytest.mark.parametrize(
    ("command", "code"), [("ADD", Code.TRY_AGAIN), ("CHECK", Code.TRY_AGAIN), ("STATUS", Code.NOT_AVAILABLE)]
)
def test_without_an_agent_nothing_starts_and_the_reason_is_said(path: Path, command: str, code: Code) -> None:
    status, printed = run(environment(command), configuration(ADDRESS, socket=str(path), timeoutSeconds=1))
    said = json.loads(printed)
    assert (status, said["code"], said["cniVersion"]) == (1, int(code), "1.1.0")
    assert "does not answer" in said["msg"]
    assert said["details"] == "No such file or directory"


def test_an_agent_that_hangs_is_waited_for_no_longer_than_that(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as hangs:
        hangs.bind(str(path))
        hangs.listen()
        status, printed = run(environment("ADD"), configuration(ADDRESS, socket=str(path), timeoutSeconds=1))
    assert (status, json.loads(printed)["details"]) == (1, "Connection timed out")


def test_an_exempt_namespace_does_not_wait_for_an_agent(path: Path) -> None:
    given = configuration(ADDRESS, socket=str(path), timeoutSeconds=1, exemptNamespaces=["kube-system", "demo"])
    status, printed = run(environment("ADD"), given)
    assert (status, json.loads(printed)) == (0, result(ADDRESS))
    for command in ("CHECK", "DEL", "STATUS"):
        assert run(environment(command), given) == (0, "")


@pytest.mark.parametrize(
    ("args", "exempt"),
    [
        (POD, ["demo2", "dem"]),
        (POD, "demo"),
        (POD, {"demo": "demo"}),
        (POD, [["demo"], {"a": "demo"}, "\\u0064emo\n"]),
        ("K8S_POD_NAME=x;K8S_POD_NAMESPACE=", [""]),
        ("XK8S_POD_NAMESPACE=demo", ["demo"]),
        ("", ["demo"]),
    ],
)
def test_nothing_else_is_exempt(path: Path, args: str, exempt: Any) -> None:
    given = configuration(ADDRESS, socket=str(path), timeoutSeconds=1, exemptNamespaces=exempt)
    assert run(environment("ADD", args=args), given)[0] == 1


def test_an_exempt_namespace_needs_the_plugins_before_all_the_same() -> None:
    status, printed = run(environment("ADD"), configuration(exemptNamespaces=["demo"]))
    assert (status, json.loads(printed)["code"]) == (1, int(Code.CONFIGURATION))


@pytest.mark.parametrize("version", SUPPORTED)
def test_versions_are_told_without_an_agent(version: str) -> None:
    status, printed = run({"CNI_COMMAND": "VERSION"}, {"cniVersion": version})
    assert status == 0
    assert json.loads(printed) == {"cniVersion": version, "supportedVersions": list(SUPPORTED)}


@pytest.mark.parametrize(
    ("variables", "given", "code", "words"),
    [
        ({}, b"", Code.ENVIRONMENT, "CNI_COMMAND"),
        (environment("ADD"), b"", Code.UNDECODABLE, "no JSON object"),
        (environment("ADD"), b"[]", Code.UNDECODABLE, "no JSON object"),
        (environment("ADD"), b"x" * (5 << 20), Code.UNDECODABLE, "4 MiB"),
        (environment("ADD"), configuration(socket="x" * 108), Code.CONFIGURATION, "socket"),
        (environment("ADD"), configuration(socket=""), Code.CONFIGURATION, "socket"),
        (environment("ADD"), configuration(timeoutSeconds=0), Code.CONFIGURATION, "1 to 600"),
        (environment("ADD"), configuration(timeoutSeconds=601), Code.CONFIGURATION, "1 to 600"),
        (environment("ADD"), configuration(timeoutSeconds="soon"), Code.CONFIGURATION, "1 to 600"),
    ],
)
def test_what_is_wrong_is_said(variables: dict[str, str], given: Any, code: Code, words: str) -> None:
    status, printed = run(variables, given)
    said = json.loads(printed)
    assert (status, said["code"]) == (1, int(code))
    assert words in said["msg"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.dictionaries(st.text(max_size=6).filter(lambda name: name != "prevResult"), VALUES, max_size=4),
    VALUES,
    st.sampled_from([None, 2]),
    st.booleans(),
)
def test_a_result_is_found_in_whatever_is_around_it(
    around: dict[str, Any],
    previous: Any,
    indent: int | None,
    first: bool,
) -> None:
    """The program's reader of JSON against a whole one."""
    exempt = {"exemptNamespaces": ["a", "demo"]}
    given = {"prevResult": previous, **around, **exempt} if first else {**around, **exempt, "prevResult": previous}
    status, printed = run(environment("ADD"), json.dumps(given, indent=indent).encode())
    assert (status, json.loads(printed)) == (0, previous)


@given(st.binary(max_size=200) | st.text(st.sampled_from('{}[]",:\\ ae1\n'), max_size=60).map(str.encode))
def test_whatever_comes_in_it_ends_with_a_result_or_an_error(data: bytes) -> None:
    given = b'{"exemptNamespaces":["demo"],"socket":"/nowhere",' + data
    status, printed = run(environment("STATUS"), given)
    assert status == 0 or json.loads(printed)["code"]
