"""What an agent keeps on disk: taken back whole, and nothing that is damaged or somebody else's."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.authority import ca
from agent.identity.credential import FileCredential
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Svid
from tests.tls.pki import TRUST_DOMAIN, Pki

PKI = Pki()
AGENT = SpiffeId.for_agent(TRUST_DOMAIN, "node-a")


def own(node: str = "node-a") -> Svid:
    return PKI.certificate([str(SpiffeId.for_agent(TRUST_DOMAIN, node))])


def credential(directory: Path) -> FileCredential:
    return FileCredential(directory, TRUST_DOMAIN, "node-a")


def test_what_was_kept_is_taken_back_whole(tmp_path: Path) -> None:
    kept = tmp_path / "state" / "agent"
    svid = own()
    assert credential(kept).load() is None
    credential(kept).save(svid)
    found = credential(kept).load()
    assert found is not None
    assert (found.spiffe_id, found.chain_pem, found.key_pem, found.serial) == (
        AGENT,
        svid.chain_pem,
        svid.key_pem,
        svid.serial,
    )
    assert (found.not_before, found.not_after) == (int(svid.not_before), int(svid.not_after))
    assert found.issuer_key_id == ca.key_id(PKI.issuer.certificate)
    assert kept.stat().st_mode & 0o777 == 0o700, "nobody else looks in"
    assert [path.name for path in kept.iterdir()] == ["svid.pem"], "what was in the making is gone"


def test_what_is_kept_is_on_disk_when_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token is used up: after a power cut there must be one of the two."""
    synced: list[str] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        fsync(fd)

    monkeypatch.setattr("os.fsync", noted)
    credential(tmp_path / "agent").save(own())
    assert synced == [f".svid.pem.{os.getpid()}", "agent"]


def test_a_longer_one_that_was_left_half_written_leaves_nothing_of_itself(tmp_path: Path) -> None:
    (tmp_path / f".svid.pem.{os.getpid()}").write_bytes(b"x" * 100_000)
    svid = own()
    credential(tmp_path).save(svid)
    assert (tmp_path / "svid.pem").read_bytes() == svid.chain_pem + svid.key_pem


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (lambda: own("node-b"), "is not of spiffe://example.test/agent/node-a"),
        (lambda: PKI.svid("web"), "is not of spiffe://example.test/agent/node-a"),
        (lambda: replace(own(), key_pem=own().key_pem), "holds another key than its certificate's"),
        (lambda: replace(own(), key_pem=b""), "cannot be used"),
        (lambda: replace(own(), chain_pem=b""), "cannot be used"),
        (lambda: PKI.certificate([]), "cannot be used"),
        (lambda: PKI.certificate([str(AGENT)], is_ca=True), "cannot be used"),
    ],
)
def test_what_is_not_the_agents_own_is_not_used_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: Callable[[], Svid], words: str
) -> None:
    credential(tmp_path).save(kept())
    assert credential(tmp_path).load() is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(tmp_path / "svid.pem") in record.getMessage()
    assert words in record.getMessage()
    assert "joining anew" in record.getMessage()


# the bundle beside it


def test_a_bundle_is_kept_and_written_when_it_is_another(tmp_path: Path) -> None:
    anchors = PKI.bundle().anchors_pem
    assert credential(tmp_path).bundle_pem() is None
    credential(tmp_path).save_anchors(anchors)
    assert credential(tmp_path).bundle_pem() == anchors
    written = (tmp_path / "bundle.pem").stat()
    credential(tmp_path).save_anchors(anchors)
    assert (tmp_path / "bundle.pem").stat() == written, "the same one is not written again"
    both = anchors + Pki().bundle().anchors_pem
    credential(tmp_path).save_anchors(both)
    assert credential(tmp_path).bundle_pem() == both


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"nonsense"),
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: path.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        lambda path: path.write_bytes(PKI.bundle().anchors_pem[:-100]),
        lambda path: path.mkdir(),
    ],
    ids=["empty", "nonsense", "no text", "no certificate", "cut off", "a directory"],
)
def test_a_bundle_that_is_damaged_leaves_the_one_that_was_given_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object]
) -> None:
    damage(tmp_path / "bundle.pem")
    assert credential(tmp_path).bundle_pem() is None
    (record,) = caplog.records
    assert f"{tmp_path / 'bundle.pem'} cannot be used, the bundle that was given at first counts" in record.getMessage()


def test_a_disk_that_cannot_be_written_is_said_with_what_it_means(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    credential(tmp_path / "file").save(own())
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == (
        f"{tmp_path / 'file' / 'svid.pem'} cannot be written (File exists ({tmp_path / 'file'}): something else than a "
        f"directory is there: move it away). It is tried again and again; until then a restart of this agent needs a "
        f"new join token where no valid certificate is there"
    )


def test_what_could_not_be_written_is_written_when_it_can_be_and_said_once_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "file").write_text("in the way")
    kept = credential(tmp_path / "file")
    svid = own()
    anchors = ca.pem(PKI.issuer.certificate)
    kept.save(own())
    kept.save(svid)
    kept.save_anchors(anchors)
    kept.retry()
    (tmp_path / "file").unlink()
    kept.retry()
    kept.retry()
    assert (tmp_path / "file" / "svid.pem").read_bytes() == svid.chain_pem + svid.key_pem, "the last one"
    assert kept.bundle_pem() == anchors
    assert [(each.levelname, each.getMessage().split()[0].rpartition("/")[2]) for each in caplog.records] == [
        ("ERROR", "svid.pem"),
        ("WARNING", "bundle.pem"),
        ("ERROR", "bundle.pem"),
        ("INFO", "svid.pem"),
        ("INFO", "bundle.pem"),
    ]
