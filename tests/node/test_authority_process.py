"""The authority as a child: what it says once it serves, and that it says nothing where it ends before that."""

import re
from pathlib import Path

import pytest
import uvloop
from cryptography import x509

from agent.authority.directory import StateDirectory
from agent.authority.run import AuthorityConfig
from agent.flags import HostPort
from agent.node.authority_process import AuthorityError, AuthorityListening, AuthorityProcess
from tests.tls.pki import TRUST_DOMAIN

ROOT = Path(__file__).parent.parent.parent


def process(directory: Path, trust_domain: str = TRUST_DOMAIN) -> AuthorityProcess:
    config = AuthorityConfig(
        state=directory / "state",
        trust_domain=trust_domain,
        listen=HostPort("127.0.0.1", 0),
        manifests=directory,
        svid_seconds=3600.0,
    )
    return AuthorityProcess(config, node="node-a", log_format="text", log_level="warning")


def test_one_that_serves_says_where_and_which_bundle_to_trust(tmp_path: Path) -> None:
    async def started() -> AuthorityListening:
        authority = process(tmp_path)
        await authority.start()
        await authority.stop()
        return authority.listening

    listening = uvloop.run(started())
    assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", listening.address)
    root = StateDirectory(tmp_path / "state" / "authority").root_certificate(1)
    assert x509.load_pem_x509_certificates(listening.bundle_pem.encode()) == [root]


def test_one_that_ends_before_it_serves_is_an_error_with_its_status(tmp_path: Path) -> None:
    StateDirectory(tmp_path / "state" / "authority").prepare("other.test")

    async def start() -> None:
        await process(tmp_path).start()

    with pytest.raises(AuthorityError, match=r"ended at its start \(status [1-9]"):
        uvloop.run(start())


def test_nothing_is_read_from_a_pipe_by_the_loop() -> None:
    """Uvloop lets libuv close a pipe, and closes it once more: perhaps what another thread has opened meanwhile.

    An agent that started could so lose what init steps had handed over ("Bad file descriptor"), or be aborted.
    """
    found = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "agent").rglob("*.py")
        if re.search(r"\.connect_(?:read|write)_pipe\(", path.read_text(encoding="utf-8"))
    ]
    assert found == []
