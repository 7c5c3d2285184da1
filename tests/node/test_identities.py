"""SVIDs and bundles of a node: one owner, who tells workers, and says what a pod lacks."""

import msgspec
import pytest

from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle
from agent.link.messages import ForgetSvid, SetBundle, SetSvid
from agent.node.identities import Identities
from agent.objects.model import Pod
from tests.tls.pki import TRUST_DOMAIN, Pki

PKI = Pki()
WEB = Pod("demo", "web", "web", "node-a", ("192.0.2.1",))
WEB_ID = SpiffeId.for_service_account(TRUST_DOMAIN, "demo", "web")


class Told:
    """What workers were told, and how often something changed."""

    def __init__(self) -> None:
        self.messages: list[msgspec.Struct] = []
        self.changes = 0
        self.identities = Identities(TRUST_DOMAIN, tell=self.messages.append, changed=self._changed)

    def _changed(self) -> None:
        self.changes += 1


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_pod_is_certified_step_by_step(told: Told) -> None:
    svid, bundle = PKI.svid(), PKI.bundle()
    now = svid.not_before
    assert told.identities.missing(WEB, now) == "the trust bundle has not come yet"
    told.identities.take_bundle(bundle)
    assert told.identities.missing(WEB, now) == f"its SVID {WEB_ID} has not come yet"
    told.identities.take_svid(svid)
    assert told.identities.missing(WEB, now) is None
    assert told.identities.missing(WEB, svid.not_after) == f"its SVID {WEB_ID} has expired"
    told.identities.take_bundle(msgspec.structs.replace(bundle, revoked_ids=frozenset({str(WEB_ID)})))
    assert "is revoked" in str(told.identities.missing(WEB, now))
    assert told.changes == 3


def test_workers_are_told_what_comes_and_new_ones_what_is_there_with_bundles_first(told: Told) -> None:
    svid, bundle = PKI.svid(), PKI.bundle()
    told.identities.take_svid(svid)
    told.identities.take_bundle(bundle)
    assert told.messages == [SetSvid(svid), SetBundle(bundle)]
    assert list(told.identities.greeting()) == [SetBundle(bundle), SetSvid(svid)]


def test_an_svid_that_nobody_wants_any_more_is_forgotten_everywhere(told: Told) -> None:
    svid = PKI.svid()
    told.identities.take_svid(svid)
    told.identities.want([WEB], lambda _: True)
    assert told.identities.expiries == {str(WEB_ID): svid.not_after}
    told.identities.want([], lambda _: True)
    assert told.messages[-1] == ForgetSvid(WEB_ID)
    assert told.identities.expiries == {}


def test_the_bundle_of_another_trust_domain_is_kept_beside_ours_and_vouches_for_none_of_ours(told: Told) -> None:
    foreign = Bundle("other.test", PKI.bundle().anchors_pem, 1)
    told.identities.take_bundle(foreign)
    assert told.identities.bundle is None
    assert told.identities.missing(WEB, 0) == "the trust bundle has not come yet"
    assert list(told.identities.greeting()) == [SetBundle(foreign)]
