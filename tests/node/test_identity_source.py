"""Where an agent's identities come from: what it trusts when it starts."""

from pathlib import Path
from typing import Any

import pytest

from agent.authority import ca
from agent.flags import ConfigError
from agent.identity.authority_client import AuthorityClient, Proof
from agent.identity.credential import FileCredential
from agent.node import identity_source
from agent.node.config import Remote
from tests.identity.odd_roots import ODD
from tests.tls.pki import TRUST_DOMAIN, Pki

GIVEN, KEPT = Pki().bundle().anchors_pem, Pki().bundle().anchors_pem


class Flags:
    """What is asked of a Config here."""

    def __init__(self, directory: Path) -> None:
        self.state = directory
        self.trust_domain = TRUST_DOMAIN
        self.node = "node-a"
        self.identity = Remote(("192.0.2.1:8443",), directory / "given.pem")


async def trusted(directory: Path) -> bytes:
    """The anchors that an agent with this state begins with."""
    flags: Any = Flags(directory)
    source = await identity_source.start(flags)
    assert isinstance(source.provider, AuthorityClient)
    return source.provider._anchors


async def test_the_bundle_that_was_kept_goes_before_the_one_that_was_given(tmp_path: Path) -> None:
    """A root may have rotated since."""
    (tmp_path / "given.pem").write_bytes(GIVEN)
    assert await trusted(tmp_path) == GIVEN
    FileCredential(tmp_path / "agent", TRUST_DOMAIN, "node-a").save_anchors(KEPT)
    assert await trusted(tmp_path) == KEPT
    (tmp_path / "agent" / "bundle.pem").write_bytes(KEPT[:-100])
    assert await trusted(tmp_path) == GIVEN, "what was kept is damaged"


async def test_in_a_cluster_the_bundle_that_is_published_goes_before_the_one_that_was_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The node may have been off while a root rotated."""
    flags: Any = Flags(tmp_path)
    flags.identity = Remote(("192.0.2.1:8443",), tmp_path / "given.pem", service_account_token=tmp_path / "token")

    async def trusted() -> bytes:
        source = await identity_source.start(flags)
        assert isinstance(source.provider, AuthorityClient)
        assert source.provider._proof is Proof.SERVICE_ACCOUNT
        return source.provider._anchors

    with pytest.raises(ConfigError, match="in the ConfigMap quietwire-bundle"):
        await trusted()
    (tmp_path / "given.pem").write_bytes(GIVEN)
    FileCredential(tmp_path / "agent", TRUST_DOMAIN, "node-a").save_anchors(KEPT)
    assert await trusted() == GIVEN
    (tmp_path / "given.pem").write_bytes(b"")
    assert await trusted() == KEPT
    assert f"--bundle {tmp_path / 'given.pem'} cannot be used" in caplog.text


async def test_comments_beside_certificates_are_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "given.pem").write_bytes("# die Wurzel für heute\n".encode() + GIVEN)
    assert await trusted(tmp_path) == GIVEN


@pytest.mark.parametrize(
    ("data", "words"), [(None, "No such file"), (b"", "no PEM certificates"), (b"nonsense\xff", "no PEM certificates")]
)
async def test_without_a_bundle_an_agent_does_not_start_and_says_where_to_get_one(
    tmp_path: Path, data: bytes | None, words: str
) -> None:
    if data is not None:
        (tmp_path / "given.pem").write_bytes(data)
    with pytest.raises(ConfigError, match=words) as caught:
        await trusted(tmp_path)
    assert f"--bundle {tmp_path / 'given.pem'} cannot be used" in str(caught.value)
    assert "`quietwire authority bundle --pem`" in str(caught.value)


PKI = Pki()
PATH = Path("bundle.pem")


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_root_is_left_out_and_said_and_where_none_remains_nothing_starts(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    odd, why = ODD[kind](PKI)
    good = PKI.bundle().anchors_pem
    assert identity_source._roots_of(ca.pem(odd) + good, PATH) == good
    assert why in caplog.text
    with pytest.raises(ConfigError, match=f"has no root: .*{why}"):
        identity_source._roots_of(ca.pem(odd), PATH)
