"""What a bundle revokes, and what an SVID shows of itself."""

import pytest

from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid

WEB, API = (SpiffeId.for_service_account("example.test", "demo", name) for name in ("web", "api"))


@pytest.mark.parametrize(
    ("ids", "serials", "revoked"),
    [
        ((), (), (False, False, False)),
        ((WEB,), (), (True, True, False)),
        ((), ("1",), (True, False, True)),
        ((API,), ("2",), (False, True, True)),
        ((WEB, API), ("1", "2"), (True, True, True)),
    ],
)
def test_a_bundle_revokes_an_identity_with_all_its_certificates_or_one_certificate_of_whomever(
    ids: tuple[SpiffeId, ...], serials: tuple[str, ...], revoked: tuple[bool, bool, bool]
) -> None:
    """Asked of: web's first certificate, web's second, and api's, whose serial is none of web's or one of them."""
    bundle = Bundle(
        "example.test", b"", 1, revoked_ids=frozenset(str(each) for each in ids), revoked_serials=frozenset(serials)
    )
    third = "1" if "1" in serials else "3"
    asked = ((WEB, "1"), (WEB, "2"), (API, third))
    assert tuple(bundle.revokes(*each) for each in asked) == revoked


def test_an_svid_shows_whose_it_is_and_until_when_and_no_key() -> None:
    svid = Svid(WEB, b"chain", b"secret", 1.0, 1e9, "ab12")
    assert repr(svid) == str(svid) == f"Svid({WEB}, serial=ab12, not_after=1000000000)"
