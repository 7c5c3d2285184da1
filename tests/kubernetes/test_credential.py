"""What we show and whom we believe is what the files say now."""

import datetime
import ssl
from pathlib import Path

import msgspec
import pytest

from agent.kubernetes.access import Access, Command, Material
from agent.kubernetes.credential import EARLY_SECONDS, Credential
from agent.kubernetes.errors import Unreachable
from tests.kubernetes.cluster import pki

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture
def access(tmp_path: Path) -> Access:
    """With a token and a CA, in files."""
    pki.make_issuer(tmp_path, "ca", NOW)
    (tmp_path / "token").write_text("first\n")
    return Access(
        "192.0.2.1",
        443,
        ca=Material(file=str(tmp_path / "ca.crt")),
        token=Material(file=str(tmp_path / "token")),
        source=str(tmp_path),
    )


def replace(path: Path, content: str) -> None:
    """As the kubelet does it: another file under the name."""
    path.with_suffix(".new").write_text(content)
    path.with_suffix(".new").rename(path)


async def test_a_token_that_was_rotated_is_the_one_that_is_shown(access: Access, tmp_path: Path) -> None:
    credential = Credential(access)
    assert await credential.headers() == [("Authorization", "Bearer first")]
    replace(tmp_path / "token", "second")
    assert await credential.headers() == [("Authorization", "Bearer second")]


async def test_a_token_that_is_gone_is_an_error_and_nothing_is_sent_without_it(access: Access, tmp_path: Path) -> None:
    credential = Credential(access)
    await credential.headers()
    (tmp_path / "token").unlink()
    with pytest.raises(Unreachable, match="token cannot be read: No such file"):
        await credential.headers()


async def test_a_ca_that_was_replaced_is_the_one_that_is_believed(access: Access, tmp_path: Path) -> None:
    credential = Credential(access)
    first = await credential.context()
    assert await credential.context() is first
    former = first.get_ca_certs()
    pki.make_issuer(tmp_path, "other", NOW)
    replace(tmp_path / "ca.crt", (tmp_path / "other.crt").read_text())
    second = await credential.context()
    assert second is not first
    assert second.get_ca_certs() != former


async def test_only_the_ca_that_was_given_is_believed(access: Access) -> None:
    context = await Credential(access).context()
    assert len(context.get_ca_certs()) == 1
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


async def test_a_ca_file_without_certificates_is_named(access: Access, tmp_path: Path) -> None:
    replace(tmp_path / "ca.crt", "nothing")
    with pytest.raises(Unreachable, match=r"ca\.crt: no CA certificates"):
        await Credential(access).context()


async def test_a_client_certificate_that_does_not_fit_its_key_is_named(access: Access, tmp_path: Path) -> None:
    issuer = pki.make_issuer(tmp_path, "ca", NOW)
    pki.issue(tmp_path, "one", issuer, NOW, user="one")
    pki.issue(tmp_path, "two", issuer, NOW, user="two")
    mixed = msgspec.structs.replace(
        access,
        certificate=Material(file=str(tmp_path / "one.crt")),
        key=Material(data=(tmp_path / "two.key").read_bytes()),
    )
    with pytest.raises(Unreachable, match=r"one\.crt: client certificate and key cannot be used"):
        await Credential(mixed).context()


async def test_a_program_is_asked_once_until_its_credential_is_about_to_expire(access: Access, tmp_path: Path) -> None:
    program = tmp_path / "login"
    program.write_text(
        f"#!/bin/sh\necho >>{tmp_path}/asked\n"
        'echo \'{"status":{"token":"given","expirationTimestamp":"2026-01-01T00:00:00Z"}}\'\n'
    )
    program.chmod(0o755)
    until = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).timestamp()
    now = [until - 3600]
    by_program = msgspec.structs.replace(access, command=Command((str(program),), (), "v1"))
    credential = Credential(by_program, clock=lambda: now[0])

    def asked() -> int:
        return len((tmp_path / "asked").read_text().splitlines())

    for _ in range(3):
        assert await credential.headers() == [("Authorization", "Bearer given")]
    assert asked() == 1
    now[0] = until - EARLY_SECONDS
    await credential.headers()
    assert asked() == 2
    now[0] = until - 3600
    credential.forget()
    await credential.headers()
    assert asked() == 3
