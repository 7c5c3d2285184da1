"""Over worlds that nobody thought of: the agent's policy against `naive`, and step by step against itself at once."""

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.catalog.index import CatalogIndex
from agent.catalog.join import Assembly
from agent.catalog.snapshot import Catalog
from agent.identity.spiffe import SpiffeId
from agent.objects.key import ObjectKey
from agent.objects.policy import DefaultPolicy
from agent.policy.authorize import authorize, could_permit_unauthenticated
from agent.policy.index import PROBE, PolicyIndex, PolicySettings
from agent.policy.model import Client, Permit, PodPort
from tests.policy.generated import ASKERS, DEFAULTS, NODE, PORTS, histories, worlds
from tests.policy.naive import Asker, Naive, place
from tests.policy.world import TRUST_DOMAIN, Manifest, World, catalog_of, client, manifest, read, text_of, verdict


def client_of(asker: Asker) -> Client:
    identity = None if asker.spiffe_id is None else SpiffeId.parse(asker.spiffe_id)
    return Client(ipaddress.ip_address(asker.address), identity, tls=asker.tls)


@settings(max_examples=100, deadline=None)
@given(worlds(), st.sampled_from(DEFAULTS))
def test_both_decide_the_same_and_name_the_same(manifests: list[Manifest], default: str) -> None:
    world = World(text_of(manifests), default=default, node_addresses=[NODE])
    assert world.faults == ()
    naive = Naive(manifests, default=default, trust_domain=TRUST_DOMAIN, node=[NODE])
    for pod in (place(each) for each in manifests if each["kind"] == "Pod"):
        for port in PORTS:
            for asker in ASKERS:
                answer, expected = world.answer(client_of(asker), pod, port), naive.answer(asker, pod, port)
                question = f"{asker} -> {pod}:{port}"
                assert (verdict(answer), answer.decided_by) == (expected.verdict, expected.decided), question
                considered = {each.authorization for each in answer.considered}
                if isinstance(answer, Permit):
                    assert considered <= expected.lacking, question
                    assert answer.audit or answer.authorization in expected.allowing, question
                else:
                    assert considered | {PROBE} == expected.lacking | {PROBE}, question


@settings(max_examples=100, deadline=None)
@given(worlds(), st.sampled_from(DEFAULTS))
def test_the_words_about_an_authorization_agree_with_the_decision(manifests: list[Manifest], default: str) -> None:
    """Who is let in is found without a word; what each authorization lacks is said by another way, for people."""
    world = World(text_of(manifests), default=default, node_addresses=[NODE])
    for pod in world.pods.pods():
        for port in PORTS:
            permits = world.policy.permits(pod, port)
            everyone = permits.authorizations if permits.probe is None else (*permits.authorizations, permits.probe)
            for asker in ASKERS:
                who = client_of(asker)
                first = next((each.name for each in everyone if each.lacks(who) is None), None)
                assert permits.matcher.first(who) == first, f"{asker} -> {pod.key}:{port}"


@settings(max_examples=50, deadline=None)
@given(worlds(), st.sampled_from(DEFAULTS), st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_detection_foresees_exactly_the_plaintext_clients_that_are_let_in(
    manifests: list[Manifest], default: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    world = World(text_of(manifests), default=default, node_addresses=[NODE])
    asked = [address, *(ipaddress.ip_address(asker.address) for asker in ASKERS if not asker.tls)]
    for pod in world.pods.pods():
        for port in PORTS:
            permits = world.policy.permits(pod, port)
            for each in asked:
                answer = authorize(PodPort(pod.key, port), Client(each, None, tls=False), permits)
                assert could_permit_unauthenticated(permits, each) is isinstance(answer, Permit), answer


def test_a_node_that_gets_another_address_probes_from_there() -> None:
    spec = {"containers": [{"name": "c", "livenessProbe": {"tcpSocket": {"port": 8081}}}]}
    world = World(text_of([manifest("Pod demo/a", {"spec": spec})]), node_addresses=[NODE])
    old, new = (client(f"plain@{address}") for address in (NODE, "10.9.0.2"))
    assert [verdict(world.answer(each, "demo/a", 8081)) for each in (old, new)] == ["allow", "deny"]
    world.policy.set_node_addresses(["10.9.0.2"])
    assert [verdict(world.answer(each, "demo/a", 8081)) for each in (old, new)] == ["deny", "allow"]


@settings(max_examples=100, deadline=None)
@given(histories(), st.sampled_from(DEFAULTS))
def test_changes_one_by_one_give_what_all_at_once_gives(history: list[list[Manifest]], default: str) -> None:
    """Everything is asked after every change, so that whatever is kept of an answer must be forgotten in time."""
    flags = PolicySettings(TRUST_DOMAIN, DefaultPolicy(default))
    assembly, pods, policy = Assembly(), CatalogIndex(Catalog()), PolicyIndex(Catalog(), flags, [NODE])
    known = frozenset[ObjectKey]()
    for number, manifests in enumerate(history):
        loaded = read(text_of(manifests))
        assert loaded.faults == ()
        change = assembly.apply(loaded.objects, known - loaded.objects.keys())
        known = frozenset(loaded.objects)
        if change is not None:
            pods.apply(change)
            policy.apply(change)
        catalog = catalog_of(loaded)
        scratch = PolicyIndex(catalog, flags, [NODE])
        assert {pod.key: pod for pod in pods.pods()} == {pod.key: pod for pod in catalog.pods}
        for pod in pods.pods():
            for port in PORTS:
                assert policy.permits(pod, port) == scratch.permits(pod, port), f"step {number}: {pod.key}:{port}"
