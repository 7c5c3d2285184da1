"""`quietwire check`: what can be typed, and what is said without an API server."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.work.check import finding, run
from agent.cli.work.check.expected import Expected
from agent.cli.work.check.finding import Finding
from agent.kubernetes.client import Client
from tests.cli.typed import quietwire

CONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "it",
    "users": [{"name": "it", "user": {"token": "t"}}],
    "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Bound, and nobody listens yet: who connects is refused."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


@pytest.fixture
def kubeconfig(tmp_path: Path, listener: socket.socket) -> Path:
    """Of a cluster there."""
    cluster = {"server": f"https://127.0.0.1:{listener.getsockname()[1]}"}
    file = tmp_path / "config"
    file.write_text(json.dumps({**CONFIG, "clusters": [{"name": "it", "cluster": cluster}]}))
    return file


@pytest.mark.parametrize("words", [["--pre"], []])
def test_a_server_that_is_down_is_said_with_its_cause_and_the_rest_is_skipped(
    kubeconfig: Path, words: list[str]
) -> None:
    done = quietwire("check", *words, "--kubeconfig", kubeconfig)
    assert (done.code, done.err) == (1, "")
    first, advice, *others = done.out.splitlines()
    assert first.startswith("wrong    api ")
    assert "Nobody listens there" in advice
    *skipped, _, tally = others
    assert len(skipped) > 5
    assert all(line.startswith("skipped  ") for line in skipped)
    assert tally == f"{len(skipped) + 1} checks: 1 wrong, {len(skipped)} skipped"


def test_json_has_the_same_as_one_document(kubeconfig: Path) -> None:
    done = quietwire("check", "--pre", "--json", "--kubeconfig", kubeconfig)
    assert done.code == 1
    assert done.json["ok"] is False
    assert done.json["checks"][0]["verdict"] == "wrong"
    assert {each["verdict"] for each in done.json["checks"][1:]} == {"skipped"}


def test_what_answers_without_tls_is_told_from_what_does_not_answer(kubeconfig: Path, listener: socket.socket) -> None:
    listener.listen()
    answered = threading.Thread(target=answer, args=(listener,))
    answered.start()
    done = quietwire("check", "--pre", "--kubeconfig", kubeconfig)
    answered.join()
    assert done.code == 1
    assert "no TLS" in done.out.splitlines()[1]


def answer(listener: socket.socket) -> None:
    sock, _ = listener.accept()
    with sock:
        sock.recv(4096)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--namespace", "No Such"], "--namespace 'No Such'"),
        (["--wait", "-1"], "--wait -1"),
        (["--wait", "nan"], "--wait nan"),
        (["--kubeconfig", "/nonexistent"], "/nonexistent: there is no such file"),
        (["--context", "other"], "there is no context 'other'"),
    ],
)
def test_what_cannot_be_is_bad_usage(kubeconfig: Path, words: list[str], said: str) -> None:
    given = [] if "--kubeconfig" in words else ["--kubeconfig", str(kubeconfig)]
    done = quietwire("check", *words, *given)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


@pytest.mark.parametrize(("wait", "rounds", "code"), [("0", 1, 1), ("1", 3, 0)])
def test_with_wait_it_is_tried_again_until_all_is_well(
    kubeconfig: Path, monkeypatch: pytest.MonkeyPatch, wait: str, rounds: int, code: int
) -> None:
    """What is wrong at first is well in the third round."""
    tried: list[bool] = []

    async def once(client: Client, wanted: Expected, *, pre: bool) -> tuple[Finding, ...]:
        tried.append(pre)
        return (finding.ok("it", "is well") if len(tried) == 3 else finding.wrong("it", "is not", "Wait"),)

    monkeypatch.setattr(run, "once", once)
    monkeypatch.setattr(run, "PAUSE_SECONDS", 0.001)
    done = quietwire("check", "--wait", wait, "--kubeconfig", kubeconfig)
    assert (done.code, tried) == (code, [False] * rounds)
