"""What a worker has in force: whose contexts there are, under what nobody may go on, what a change was about."""

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent.catalog.snapshot import Catalog, CatalogChange
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid
from agent.objects.key import ObjectKey, PodKey
from agent.objects.model import ContainerPort, Endpoint, Pod
from agent.policy.index import PolicySettings
from agent.proxy.view import Settings, View
from agent.tls._store import SessionStore, size_for
from agent.tls.contexts import Certificate, Contexts, anchor_id
from tests.proxy.fakes import API_IP, PKI, PORT, WEB_IP, Worker, pod
from tests.tls.pki import TRUST_DOMAIN, Pki
from tests.tls.test_machine import joined

WEB, API = pod("web", WEB_IP), pod("api", API_IP)
WEB_ID, API_ID = (SpiffeId.for_service_account(TRUST_DOMAIN, "demo", name) for name in ("web", "api"))
OTHER = Pki()


def new_svid(name: str = "web") -> Svid:
    """One that is valid already at the moment that these tests ask about, whenever it is made."""
    return PKI.svid(name, begins=-3600)


SVID = new_svid()
VALID = SVID.not_before + 3600


def anchor(pki: Pki) -> bytes:
    return anchor_id(pki.root.certificate.public_bytes(Encoding.DER))


def view(bundle: Bundle | None = None, *svids: Svid) -> View:
    made = View(Settings("node-a", PolicySettings(TRUST_DOMAIN)))
    if bundle is not None:
        made.set_bundle(bundle)
    for svid in svids:
        made.set_svid(svid)
    return made


def contexts(of: View, pod_: Pod = WEB, now: float = VALID) -> Contexts:
    found = of.contexts_of(pod_, now)
    assert found is not None
    return found


# contexts: without them a pod serves nobody, and dials nobody


def test_a_pod_has_contexts_only_with_an_svid_of_its_own_and_a_bundle() -> None:
    assert view().contexts_of(WEB, VALID) is None
    assert view(PKI.bundle()).contexts_of(WEB, VALID) is None
    assert view(None, SVID).contexts_of(WEB, VALID) is None
    both = view(PKI.bundle(), SVID)
    assert contexts(both).svid == SVID
    assert both.contexts_of(API, VALID) is None, "another pod's SVID is not its own"


def test_an_svid_counts_from_its_first_moment_until_right_before_its_last() -> None:
    made = view(PKI.bundle(), SVID)
    assert made.contexts_of(WEB, SVID.not_before - 0.001) is None
    assert contexts(made, now=SVID.not_before)
    assert contexts(made, now=SVID.not_after - 0.001)
    assert made.contexts_of(WEB, SVID.not_after) is None, "though contexts were made when it was valid"


@pytest.mark.parametrize(
    "revoked", [{"revoked_ids": frozenset({str(WEB_ID)})}, {"revoked_serials": frozenset({SVID.serial})}]
)
def test_who_is_revoked_has_no_contexts_and_has_them_again_when_that_is_taken_back(
    revoked: dict[str, frozenset[str]],
) -> None:
    made = view(PKI.bundle(), SVID, new_svid("api"))
    before = contexts(made)
    made.set_bundle(msgspec.structs.replace(PKI.bundle(2), **revoked))
    assert made.contexts_of(WEB, VALID) is None
    assert contexts(made, API), "and nobody else is"
    made.set_bundle(PKI.bundle(3))
    assert contexts(made) is before


def test_contexts_stay_with_their_sessions_until_the_svid_or_the_anchors_are_others() -> None:
    api = new_svid("api")
    made = view(PKI.bundle(), SVID, api)
    first, first_api = contexts(made), contexts(made, API)
    made.set_svid(SVID)
    made.set_bundle(PKI.bundle(2))
    assert (contexts(made), contexts(made, API)) == (first, first_api)

    renewed = new_svid()
    made.set_svid(renewed)
    assert contexts(made).svid == renewed
    assert contexts(made, API) is first_api, "the other pod's SVID is as it was"

    both = msgspec.structs.replace(PKI.bundle(3), anchors_pem=PKI.bundle().anchors_pem + OTHER.bundle().anchors_pem)
    made.set_bundle(both)
    assert contexts(made, API) is not first_api
    assert contexts(made).anchors == contexts(made, API).anchors == {anchor(PKI), anchor(OTHER)}


def test_contexts_that_are_dropped_forget_their_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their connections may hold them for days: what they could still resume must not."""
    forgotten: list[str] = []

    class Server:
        def __init__(self, serial: str) -> None:
            self._serial = serial

        def forget(self) -> None:
            forgotten.append(self._serial)

    def made_of(svid: Svid, *_: object) -> object:
        made = Contexts(svid, PKI.bundle())
        made.server = Server(svid.serial)  # type: ignore[assignment] # only what is asked of it here
        return made

    monkeypatch.setattr("agent.proxy.view.Contexts", made_of)
    made = view(PKI.bundle(), SVID)
    contexts(made)
    renewed = new_svid()
    made.set_svid(renewed)
    assert forgotten == [SVID.serial]
    contexts(made)
    made.set_bundle(OTHER.bundle(2))
    assert forgotten == [SVID.serial, renewed.serial]
    contexts(made)
    made.forget_svid(WEB_ID)
    assert forgotten == [SVID.serial, renewed.serial, renewed.serial]
    made.forget_svid(WEB_ID)
    assert len(forgotten) == 3, "what is gone is gone"


def test_an_svid_that_is_forgotten_is_nobodys_any_more() -> None:
    made = view(PKI.bundle(), SVID, new_svid("api"))
    contexts(made)
    made.forget_svid(WEB_ID)
    assert made.contexts_of(WEB, VALID) is None
    assert contexts(made, API)
    made.forget_svid(WEB_ID)
    made.set_svid(SVID)
    assert contexts(made).svid == SVID


# what a connection stands on


STANDS = Certificate(WEB_ID, SVID.serial, frozenset({anchor(PKI)}))


def test_the_bundle_of_another_trust_domain_neither_replaces_ours_nor_vouches_for_who_is_of_ours() -> None:
    made = view(PKI.bundle(), SVID)
    contexts = made.contexts_of(WEB, VALID)
    other = Pki()
    made.set_bundle(msgspec.structs.replace(other.bundle(), trust_domain="other.test"))
    assert made.contexts_of(WEB, VALID) is contexts
    assert made.problem_of(STANDS) is None
    strange = Certificate(WEB_ID, SVID.serial, frozenset({anchor(other)}))
    assert "thrown out of the bundle" in str(made.problem_of(strange))


def test_a_certificate_is_good_until_it_or_its_identity_is_revoked_and_the_words_say_which() -> None:
    made = view()
    assert made.problem_of(STANDS) == "no bundle of trust domain example.test is there", "nobody vouches for it"
    made.set_bundle(PKI.bundle())
    assert made.problem_of(STANDS) is None
    made.set_bundle(msgspec.structs.replace(PKI.bundle(), revoked_ids=frozenset({str(API_ID)})))
    assert made.problem_of(STANDS) is None, "somebody else is revoked"
    made.set_bundle(msgspec.structs.replace(PKI.bundle(), revoked_ids=frozenset({str(WEB_ID)})))
    assert made.problem_of(STANDS) == f"{WEB_ID} is revoked"
    made.set_bundle(msgspec.structs.replace(PKI.bundle(), revoked_serials=frozenset({SVID.serial})))
    assert made.problem_of(STANDS) == f"certificate {SVID.serial} of {WEB_ID} is revoked"


def test_a_certificate_is_good_as_long_as_every_anchor_it_may_stand_on_is_vouched_for() -> None:
    """On a resumed session whose handshake is forgotten it may stand on any of several: then all must be there."""
    either = msgspec.structs.replace(STANDS, anchors=frozenset({anchor(PKI), anchor(OTHER)}))
    own = msgspec.structs.replace(STANDS, anchors=frozenset())
    made = view(PKI.bundle())
    assert made.problem_of(STANDS) is None
    thrown = f"the root that {WEB_ID} was verified against was thrown out of the bundle"
    assert made.problem_of(either) == thrown
    made.set_bundle(OTHER.bundle(2))
    assert made.problem_of(STANDS) == thrown
    assert made.problem_of(own) is None, "our own stands on nothing that we verified"
    made.set_bundle(msgspec.structs.replace(OTHER.bundle(3), retired=frozenset({anchor(PKI).hex()})))
    assert made.problem_of(STANDS) is None, "it left in order"
    assert made.problem_of(either) is None
    made.set_bundle(OTHER.bundle(4))
    assert made.problem_of(STANDS) == thrown, "and is forgotten in the end"


# what a change was about


def changed(worker: Worker, *pods: Pod, gone: tuple[ObjectKey, ...] = ()) -> tuple[set[str], set[str]]:
    touched = worker.view.change_catalog(CatalogChange(worker.view.catalog.version + 1, pods, gone=gone))
    return set(touched.pods), set(touched.addresses)


def test_a_change_is_about_pods_that_come_go_and_change_and_each_address_that_they_have_or_had() -> None:
    worker = Worker(WEB, API)
    moved = pod("web", "10.1.0.9", "2001:db8::9")
    assert changed(worker, moved) == ({"demo/web"}, {WEB_IP, *moved.ips})
    assert changed(worker, pod("new", "10.1.0.3")) == ({"demo/new"}, {"10.1.0.3"})
    assert changed(worker, gone=(ObjectKey("Pod", "demo", "api"),)) == ({"demo/api"}, {API_IP})
    assert worker.view.catalog.pod(PodKey("demo/api")) is None
    assert changed(worker, gone=(ObjectKey("Pod", "demo", "api"),)) == ({"demo/api"}, set())


def test_a_change_of_what_is_no_pod_is_about_no_pod() -> None:
    worker = Worker(WEB, API)
    assert changed(worker, gone=(ObjectKey("Service", "demo", "web"), ObjectKey("Server", "demo", "api"))) == (
        set(),
        set(),
    )
    assert worker.view.catalog.pod_at(WEB_IP) == WEB


def test_a_change_of_the_catalog_is_one_of_policy_too() -> None:
    worker = Worker(WEB, API)
    assert worker.view.policy.permits(API, PORT).decided_by == "default:all-authenticated"
    closed = pod("api", API_IP, policy="deny")
    changed(worker, closed)
    assert worker.view.policy.permits(closed, PORT).decided_by == "default:deny"


def test_every_change_begins_a_generation_so_that_a_set_up_under_way_asks_again() -> None:
    made = view()
    seen = [made.generation]
    for change in (
        lambda: made.set_catalog(made.catalog.catalog),
        lambda: made.change_catalog(CatalogChange(2)),
        lambda: made.set_node_addresses(("192.0.2.1",)),
        lambda: made.set_bundle(PKI.bundle()),
        lambda: made.set_svid(SVID),
        lambda: made.forget_svid(WEB_ID),
    ):
        change()
        seen.append(made.generation)
    assert len(set(seen)) == len(seen)
    assert seen == sorted(seen)


# who is known, and what a pod may dial


def test_an_address_is_known_where_a_pod_or_the_node_has_it() -> None:
    worker = Worker(WEB)
    worker.view.set_node_addresses(("192.0.2.1",))
    assert [worker.view.knows(each) for each in (WEB_IP, "192.0.2.1", API_IP)] == [True, True, False]
    worker.view.set_node_addresses(("192.0.2.2",))
    assert [worker.view.knows(each) for each in ("192.0.2.2", "192.0.2.1")] == [True, False]


def test_node_addresses_outlive_a_catalog() -> None:
    """The kubelet's probes are let in by them."""
    probed = msgspec.structs.replace(API, probe_ports=(PORT,))
    worker = Worker(probed)
    assert worker.view.policy.permits(probed, PORT).probe is None
    worker.view.set_node_addresses(("192.0.2.1",))
    worker.view.set_catalog(worker.view.catalog.catalog)
    assert worker.view.policy.permits(probed, PORT).probe is not None


@pytest.mark.parametrize(
    ("flag", "annotation", "expected"),
    [
        ("allow", None, "allow"),
        ("meshed-only", None, "meshed-only"),
        ("allow", "meshed-only", "meshed-only"),
        ("meshed-only", "allow", "allow"),
    ],
)
def test_the_egress_mode_is_the_pods_own_and_else_the_agents(flag: str, annotation: str | None, expected: str) -> None:
    asked = pod("web", WEB_IP, egress_mode=annotation)
    assert Worker(asked, egress=flag).view.egress_mode(asked) == expected


def test_the_nodes_addresses_probe_the_pods_of_this_node_and_no_others() -> None:
    here, elsewhere = (
        msgspec.structs.replace(pod(name, ip), probe_ports=(PORT,), node=node)
        for name, ip, node in (("api", API_IP, "node-a"), ("far", "10.1.0.3", "node-b"))
    )
    worker = Worker(here, elsewhere)
    worker.view.set_node_addresses(("192.0.2.1",))
    assert worker.view.policy.permits(here, PORT).probe is not None
    assert worker.view.policy.permits(elsewhere, PORT).probe is None


def test_workers_with_one_memory_resume_each_others_sessions() -> None:
    memory, svid = bytearray(size_for(2)), new_svid("api")
    servers = []
    for number in range(2):
        made = View(Settings("node-a", PolicySettings(TRUST_DOMAIN)), SessionStore(memory, 2, number))
        made.set_bundle(PKI.bundle())
        made.set_svid(svid)
        servers.append(contexts(made, API))
    client, session = Contexts(SVID, PKI.bundle()), None
    for number, resumed in ((0, False), (1, False), (1, True)):
        far, near = joined(client, servers[number], session)
        assert near.resumed is resumed, "who has not seen the certificate wants to"
        near.send(b"hello")
        far.receive(near.outgoing())
        session = far.session or session


def test_what_is_reached_at_this_node_is_its_own_pods_host_ports_in_each_catalog() -> None:
    here, elsewhere = (
        msgspec.structs.replace(pod(name, ip), node=node, container_ports=(ContainerPort("", PORT, host_port=port),))
        for name, ip, node, port in (("api", API_IP, "node-a", 80), ("far", "10.1.0.3", "node-b", 81))
    )
    made = view()
    made.set_node_addresses(("192.0.2.1",))
    for _ in range(2):
        made.set_catalog(Catalog(1, (here, elsewhere)))
        assert made.catalog.outside("192.0.2.1", 80) == Endpoint(API_IP, PORT, "node-a")
        assert made.catalog.outside("192.0.2.1", 81) is None
