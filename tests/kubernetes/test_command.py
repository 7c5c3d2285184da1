"""Programs that give a credential: what they are asked, what they may answer, and how they may fail."""

import json
from pathlib import Path

import pytest

from agent.kubernetes import command
from agent.kubernetes.access import Command
from agent.kubernetes.errors import Unreachable

V1 = "client.authentication.k8s.io/v1"


def program(tmp_path: Path, script: str, **environ: str) -> Command:
    path = tmp_path / "login"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return Command((str(path),), tuple(environ.items()), V1, hint="get it from your administrator")


def answer(**status: str) -> str:
    return f"cat <<'END'\n{json.dumps({'kind': 'ExecCredential', 'apiVersion': V1, 'status': status})}\nEND"


async def test_a_token_and_until_when(tmp_path: Path) -> None:
    given = await command.run(program(tmp_path, answer(token="t", expirationTimestamp="2026-01-02T03:04:05Z")))
    assert (given.token, given.until) == ("t", 1767323045.0)


async def test_a_certificate_and_for_ever(tmp_path: Path) -> None:
    given = await command.run(program(tmp_path, answer(clientCertificateData="crt", clientKeyData="key")))
    assert (given.certificate, given.key, given.until) == (b"crt", b"key", float("inf"))


async def test_it_is_told_what_is_asked_of_it_and_that_nobody_is_there(tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    said = f'echo "$MORE $KUBERNETES_EXEC_INFO" >{heard}\n{answer(token="t")}'
    await command.run(program(tmp_path, said, MORE="more"))
    more, _, asked = heard.read_text().partition(" ")
    assert more == "more"
    assert json.loads(asked) == {"apiVersion": V1, "kind": "ExecCredential", "spec": {"interactive": False}}


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo not logged in >&2; exit 3", "ended with 3: not logged in"),
        ("echo hello", "no ExecCredential"),
        ("echo '{}'", "neither a token nor a certificate"),
        ('echo \'{"status":{"token":5}}\'', "no ExecCredential"),
        (answer(clientCertificateData="crt"), "neither a token nor a certificate"),
        (answer(token="t", expirationTimestamp="tomorrow"), "no ExecCredential"),
    ],
)
async def test_one_that_gives_nothing_is_named_with_its_words(tmp_path: Path, script: str, words: str) -> None:
    with pytest.raises(Unreachable, match=words) as raised:
        await command.run(program(tmp_path, script))
    assert "login" in str(raised.value)


async def test_one_that_is_not_there_is_named_with_its_hint(tmp_path: Path) -> None:
    missing = Command((str(tmp_path / "missing"),), (), V1, hint="get it from your administrator")
    with pytest.raises(Unreachable, match=r"cannot be run: No such file.*get it from your administrator"):
        await command.run(missing)


async def test_one_that_does_not_end_is_ended(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"has not ended in 0\.2 s"):
        await command.run(program(tmp_path, "exec sleep 1000"), 0.2)
