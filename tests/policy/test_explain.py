"""`explain` over values, without a manifest: it says what the data path does, and by the same rules."""

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.address import OriginalDst
from agent.catalog.index import CatalogIndex
from agent.catalog.snapshot import Catalog
from agent.objects.annotations import ALLOW, MESHED_ONLY
from agent.objects.model import ContainerPort, MeshSettings, Pod, PortRange
from agent.objects.policy import DefaultPolicy, LabelSelector, NetworkRange, Server, ServerAuthorization
from agent.outcome import Outcome
from agent.policy.explain import Explainer, Explanation, Question, QuestionError, Verdict
from agent.policy.index import PROBE, PolicyIndex, PolicySettings
from agent.proxy.route import Mesh, Plain, Refused, route
from agent.proxy.view import Settings, View

TD = "example.test"
NODE_ADDRESS = "10.9.0.1"


def pod(name: str, *ips: str, node: str = "node-a", probes: tuple[int, ...] = (), **settings: Any) -> Pod:
    return Pod("demo", name, name, node, ips, probe_ports=probes, settings=MeshSettings(**settings))


def explainer(
    *pods: Pod, default: str = "all-authenticated", egress: str = ALLOW, node: str | None = None
) -> Explainer:
    catalog = Catalog(1, pods)
    index = PolicyIndex(catalog, PolicySettings(TD, DefaultPolicy(default)), (NODE_ADDRESS,), node=node)
    return Explainer(CatalogIndex(catalog), index, egress_mode=egress)


def ask(made: Explainer, port: int = 80, **who: str) -> Explanation:
    return made.explain(Question(to="demo/api", port=port, **who))


# what the mesh itself runs under


@pytest.mark.parametrize(("path", "owner"), [("agent/n1", "an agent"), ("authority", "the authority")])
def test_an_agents_own_identity_is_said_to_be_no_workloads(path: str, owner: str) -> None:
    answer = ask(explainer(pod("api", "10.1.0.1")), from_ip="10.1.0.9", from_id=f"spiffe://{TD}/{path}")
    assert (answer.verdict, answer.decided_by) == (Verdict.DENY, "default:all-authenticated")
    assert f"spiffe://{TD}/{path} is {owner}'s own identity, no workload's" in answer.considered[0].lacked
    assert Outcome.IDENTITY_NOT_PERMITTED in answer.reason
    assert "quietwire authority revoke" in answer.reason


@pytest.mark.parametrize(
    "text",
    [
        f"web.demo.{TD}",
        f"web.serviceaccount.identity.{TD}",
        f".demo.serviceaccount.identity.{TD}",
        f"web.demo.serviceaccount.identity.other.{TD}",
        "web.demo.serviceaccount.identity.",
        "web.demo.serviceaccount.identity.linkerd",
    ],
)
def test_a_name_that_is_no_identity_of_this_mesh_is_said_to_be_none(text: str) -> None:
    with pytest.raises(QuestionError, match="is neither a spiffe:// ID nor SERVICEACCOUNT"):
        ask(explainer(pod("api", "10.1.0.1")), from_ip="10.1.0.9", from_id=text)


def test_an_account_may_have_dots_in_its_name_and_a_namespace_none() -> None:
    for linkerds in ("", "linkerd."):
        name = f"Web.v2.Demo.serviceaccount.identity.{linkerds}{TD}"
        answer = ask(explainer(pod("api", "10.1.0.1"), default="deny"), from_ip="10.1.0.9", from_id=name)
        assert f"spiffe://{TD}/ns/demo/sa/web.v2 at 10.1.0.9" in answer.reason


def test_a_question_says_who_asks_whom() -> None:
    assert str(Question(to="demo/api", port=80, from_="demo/web")) == "demo/web -> demo/api:80"
    assert str(Question(to="demo/api", port="http", from_ip="10.1.0.9")) == "10.1.0.9 -> demo/api:http"
    asked = Question(to="demo/api", port=80, from_ip="10.1.0.9", from_id="a")
    assert (str(asked), str(Question(to="demo/api", port=80))) == ("10.1.0.9 as a -> demo/api:80", "? -> demo/api:80")


# what was considered


def test_audit_says_what_would_be_denied() -> None:
    answer = ask(explainer(pod("api", "10.1.0.1"), default="audit"), from_ip="10.1.0.9")
    assert answer.verdict is Verdict.AUDIT
    assert answer.authorization == "audit"
    assert Outcome.DENIED_BY_DEFAULT in answer.reason
    assert "demo/api:80: 10.1.0.9 is not permitted" in answer.reason


def test_an_answer_that_allows_tells_what_was_asked_before() -> None:
    answer = ask(explainer(pod("api", "10.1.0.1", probes=(80,))), from_ip=NODE_ADDRESS)
    assert (answer.verdict, answer.authorization) == (Verdict.ALLOW, PROBE)
    assert [each.authorization for each in answer.considered] == ["default:all-authenticated"]


# probes: the node's addresses are those of one node


def test_the_nodes_addresses_exempt_probes_of_its_own_pods_only() -> None:
    here, there = pod("api", "10.1.0.1", probes=(80,)), pod("far", "10.2.0.1", node="node-b", probes=(80,))
    made = explainer(here, there, node="node-a")
    assert ask(made, from_ip=NODE_ADDRESS).verdict is Verdict.ALLOW
    assert made.explain(Question(to="demo/far", port=80, from_ip=NODE_ADDRESS)).verdict is Verdict.DENY
    with_host = Pod("demo", "far", "far", "node-b", ("10.2.0.1",), probe_ports=(80,), host_ips=("10.9.0.2",))
    made = explainer(here, with_host, node="node-a")
    assert made.explain(Question(to="demo/far", port=80, from_ip="10.9.0.2")).authorization == PROBE


def test_a_workers_view_knows_whose_the_nodes_addresses_are() -> None:
    here, there = pod("api", "10.1.0.1", probes=(80,)), pod("far", "10.2.0.1", node="node-b", probes=(80,))
    view = View(Settings("node-a", PolicySettings(TD)))
    view.set_node_addresses((NODE_ADDRESS,))
    view.set_catalog(Catalog(1, (here, there)))
    assert view.policy.permits(here, 80).probe is not None
    assert view.policy.permits(there, 80).probe is None


# captured and awaited: by the rule of the data path


def test_a_source_without_address_does_not_speak_mtls_to_a_port_that_skips() -> None:
    target = pod("api", "10.1.0.1", skip_inbound_ports=(PortRange(80, 80),))
    made = explainer(pod("web"), target, default="deny", egress=MESHED_ONLY)
    answer = ask(made, from_="demo/web")
    assert (answer.verdict, answer.decided_by) == (Verdict.DENY, "egress:meshed-only")
    assert ask(explainer(pod("web"), target, default="deny"), from_="demo/web").verdict is Verdict.ALLOW
    assert ask(made, 81, from_="demo/web").decided_by == "default:deny", "other ports are meshed"


def test_of_several_addresses_any_that_is_awaited_makes_the_source_speak_mtls() -> None:
    target = pod("api", "10.1.0.1", skip_subnets=("10.5.0.0/16",))
    made = explainer(pod("web", "10.5.0.1", "10.6.0.1"), target, egress=MESHED_ONLY)
    assert ask(made, from_="demo/web").verdict is Verdict.ALLOW
    made = explainer(pod("web", "10.5.0.1"), target, egress=MESHED_ONLY)
    assert ask(made, from_="demo/web").decided_by == "egress:meshed-only"


SKIPS = st.builds(
    MeshSettings,
    injected=st.booleans(),
    skip_inbound_ports=st.sampled_from([(), (PortRange(80, 90),)]),
    skip_outbound_ports=st.sampled_from([(), (PortRange(85, 95),)]),
    skip_subnets=st.sampled_from([(), ("10.1.0.0/16",), ("10.2.0.0/16",), ("2001:db8::/32",)]),
    egress_mode=st.sampled_from([None, ALLOW, MESHED_ONLY]),
)
ADDRESSES = st.sampled_from([("10.1.0.1",), ("10.1.0.1", "2001:db8::1"), ("fd00::1",), ("10.1.0.1", "10.3.0.1"), ()])


@given(SKIPS, SKIPS, ADDRESSES, st.sampled_from(["10.2.0.1", "2001:db8::2"]), st.sampled_from([79, 82, 87, 93]))
def test_who_is_refused_on_the_way_out_and_who_has_an_identity_is_as_route_decides(
    mine: MeshSettings, theirs: MeshSettings, sources: tuple[str, ...], address: str, port: int
) -> None:
    source = Pod("demo", "web", "web", "node-a", sources, settings=mine)
    target = Pod("demo", "api", "api", "node-b", (address,), settings=theirs)
    catalog = Catalog(1, (source, target))
    view = View(Settings("node-a", PolicySettings(TD)))
    view.set_catalog(catalog)
    answer = Explainer(view.catalog, view.policy, egress_mode=ALLOW).explain(
        Question(to="demo/api", port=port, from_="demo/web")
    )
    captured = mine.injected and not any(port in each for each in mine.skip_outbound_ports)
    captured = captured and not any(
        ipaddress.ip_address(address) in ipaddress.ip_network(subnet) for subnet in mine.skip_subnets
    )
    if not captured:
        assert not answer.decided_by.startswith("egress:")
        return
    taken = route(source, OriginalDst(address, port), view, lambda front, _client: front.endpoints[0])
    match taken:
        case Refused(outcome, _):
            assert outcome is Outcome.EGRESS_NOT_MESHED
            assert (answer.verdict, answer.decided_by) == (Verdict.DENY, "egress:meshed-only")
        case Mesh():
            assert answer.verdict is Verdict.ALLOW, "it has an identity, and all that have one are let in"
        case Plain():
            assert not answer.decided_by.startswith("egress:")
            let_in = not theirs.injected or "out of the mesh" in answer.reason
            assert (answer.verdict is Verdict.ALLOW) is let_in


def test_a_question_about_nobody_is_refused_with_the_names_that_are_near() -> None:
    with pytest.raises(QuestionError, match="there is no pod demo/none; demo has demo/api"):
        explainer(pod("api", "10.1.0.1")).explain(Question(to="demo/none", port=80, from_ip="10.0.0.1"))


# who asks, and from where


@pytest.mark.parametrize(
    ("sources", "targets", "known"),
    [
        (("203.0.113.1",), (), "203.0.113.1"),
        (("203.0.113.1", "203.0.113.2"), (), "203.0.113.1"),
        ((), (), None),
        ((), ("10.1.0.1",), None),
        (("203.0.113.1",), ("2001:db8::1",), None),
        (("203.0.113.1",), ("10.1.0.1",), "203.0.113.1"),
        (("2001:db8:5::1",), ("2001:db8::1",), "2001:db8:5::1"),
    ],
)
def test_a_pod_asks_from_its_address_of_the_targets_family_and_where_none_is_known_as_one_of_the_clusters(
    sources: tuple[str, ...], targets: tuple[str, ...], known: str | None
) -> None:
    made = explainer(pod("api", *targets), pod("web", *sources), default="cluster-authenticated")
    answer = ask(made, from_="demo/web")
    assert answer.verdict is (Verdict.ALLOW if known is None else Verdict.DENY)
    assert known is None or f"address {known} is in none of the cluster's networks" in answer.considered[0].lacked


def test_of_two_families_the_answer_is_that_of_the_one_that_does_not_work() -> None:
    target = pod("api", "10.1.0.1", "2001:db8::1", skip_subnets=("2001:db8::2/128",))
    made = explainer(target, pod("web", "10.1.0.2", "2001:db8::2"), egress=MESHED_ONLY)
    assert ask(made, from_="demo/web").decided_by == "egress:meshed-only"
    made = explainer(target, pod("web", "10.1.0.2", "2001:db8::3"), egress=MESHED_ONLY)
    assert ask(made, from_="demo/web").verdict is Verdict.ALLOW


@pytest.mark.parametrize(
    ("addresses", "decided_by"),
    [(("10.5.0.1",), "egress:meshed-only"), (("10.6.0.1",), None), ((), None)],
)
def test_a_target_that_has_no_address_yet_keeps_out_whom_its_networks_name(
    addresses: tuple[str, ...], decided_by: str | None
) -> None:
    target = pod("api", skip_subnets=("10.5.0.0/16",))
    answer = ask(explainer(target, pod("web", *addresses), egress=MESHED_ONLY), from_="demo/web")
    assert answer.decided_by == (decided_by or "default:all-authenticated")
    if decided_by is not None:
        assert answer == Explanation(
            Verdict.DENY,
            decided_by,
            "",
            f"egress_not_meshed: demo/web may only dial meshed pods (egress mode {MESHED_ONLY}), and demo/api:80 is "
            f"none of the mesh",
        )


def test_what_the_annotations_keep_out_of_the_mesh_is_let_in_by_nobody_and_nothing() -> None:
    made = explainer(pod("api", "10.1.0.1", skip_subnets=("10.5.0.0/16",)))
    reason = "the annotations of demo/api keep this traffic out of the mesh: no policy is enforced for it"
    assert ask(made, from_ip="10.5.0.1") == Explanation(Verdict.ALLOW, "", "", reason)
    assert ask(made, from_ip="10.6.0.1").verdict is Verdict.DENY
    made = explainer(pod("api", "10.1.0.1", injected=False))
    reason = "demo/api is not meshed: no policy is enforced for it"
    assert ask(made, from_ip="10.5.0.1") == Explanation(Verdict.ALLOW, "", "", reason)
    made = explainer(pod("api", "10.1.0.1"), default="deny")
    assert ask(made, from_="demo/api") == Explanation(Verdict.ALLOW, "", "", "a pod always reaches itself")


TLS_ALONE = (
    Server("demo", "api", 80, LabelSelector()),
    ServerAuthorization("demo", "a", "api", None, (NetworkRange("0.0.0.0/0"),), unauthenticated_tls=True),
    ServerAuthorization("demo", "b", "api", None, (NetworkRange("0.0.0.0/0"),), identities=("*",)),
)


def test_who_has_no_identity_is_asked_about_as_one_without_tls() -> None:
    catalog = Catalog(1, (pod("api", "10.1.0.1"),), policies=TLS_ALONE)
    index = PolicyIndex(catalog, PolicySettings(TD))
    made = Explainer(CatalogIndex(catalog), index, egress_mode=ALLOW)
    answer = ask(made, from_ip="192.0.2.9")
    assert (answer.verdict, answer.decided_by) == (Verdict.DENY, "Server demo/api")
    assert [(each.authorization, each.lacked) for each in answer.considered] == [
        ("ServerAuthorization demo/a", "no TLS"),
        ("ServerAuthorization demo/b", "no mesh identity: the client came without mTLS"),
    ]
    answer = ask(made, from_ip="192.0.2.9", from_id=f"spiffe://{TD}/ns/demo/sa/web")
    assert (answer.verdict, answer.authorization, answer.considered) == (
        Verdict.ALLOW,
        "ServerAuthorization demo/a",
        (),
    )


def test_what_comes_behind_the_one_that_lets_in_was_not_considered() -> None:
    one, other = (
        ServerAuthorization("demo", name, "api", None, (NetworkRange(f"192.0.2.{number}/32"),), unauthenticated=True)
        for name, number in (("a", 1), ("c", 2))
    )
    middle = ServerAuthorization("demo", "b", "api", None, (NetworkRange("192.0.2.9/32"),), unauthenticated=True)
    catalog = Catalog(1, (pod("api", "10.1.0.1"),), policies=(TLS_ALONE[0], one, middle, other))
    answer = ask(
        Explainer(CatalogIndex(catalog), PolicyIndex(catalog, PolicySettings(TD)), egress_mode=ALLOW),
        from_ip="192.0.2.9",
    )
    assert answer.authorization == "ServerAuthorization demo/b"
    assert [each.authorization for each in answer.considered] == ["ServerAuthorization demo/a"]


def test_what_audit_would_deny_says_what_was_considered() -> None:
    demanding = pod("api", "10.1.0.1", default_policy="all-unauthenticated", identity_ports=(PortRange(80, 80),))
    made = explainer(demanding)
    assert ask(made, from_ip="10.1.0.9").considered[0].lacked == "no mesh identity: the client came without mTLS"
    server = Server("demo", "api", 80, LabelSelector(), DefaultPolicy.AUDIT)
    catalog = Catalog(1, (pod("api", "10.1.0.1"),), policies=(server, TLS_ALONE[2]))
    index = PolicyIndex(catalog, PolicySettings(TD))
    answer = ask(Explainer(CatalogIndex(catalog), index, egress_mode=ALLOW), from_ip="10.1.0.9")
    assert answer.verdict is Verdict.AUDIT
    assert [each.authorization for each in answer.considered] == ["ServerAuthorization demo/b"]


# names that nobody has


def test_of_the_pods_that_are_near_a_few_are_named() -> None:
    for number, words in ((8, "p7"), (9, "p7, …")):
        made = explainer(*(pod(f"p{each}") for each in range(number)))
        with pytest.raises(QuestionError) as error:
            made.explain(Question(to="demo/none", port=80, from_ip="10.0.0.1"))
        names = "demo/p0, demo/p1, demo/p2, demo/p3, demo/p4, demo/p5, demo/p6"
        assert str(error.value) == f"to: there is no pod demo/none; demo has {names}, demo/{words}"
    with pytest.raises(QuestionError) as error:
        made.explain(Question(to="demo/p1", port=80, from_="far/none"))
    assert str(error.value) == "from: there is no pod far/none"


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (Question("demo/api", 80), "who asks? Give from (NAMESPACE/POD), or from-ip"),
        (
            Question("demo/api", 80, from_="demo/web", from_ip="10.0.0.1"),
            "from says who asks already: leave from-ip and from-id out",
        ),
        (
            Question("demo/api", "nobody", from_ip="10.0.0.1"),
            "demo/api has no port called 'nobody'; it has http, admin",
        ),
        (Question("demo/web", "x", from_ip="10.0.0.1"), "demo/web has no port called 'x'; it has none with a name"),
        (Question("demo/api", 0, from_ip="10.0.0.1"), "port 0 must be 1 to 65535"),
        (Question("demo/api", "65536", from_ip="10.0.0.1"), "port 65536 must be 1 to 65535"),
        (Question("api", 80, from_ip="10.0.0.1"), "to 'api' is no NAMESPACE/POD"),
    ],
)
def test_a_question_that_cannot_be_answered_says_what_it_lacks(question: Question, words: str) -> None:
    ports = (ContainerPort("http", 80), ContainerPort("", 81), ContainerPort("admin", 82))
    api = Pod("demo", "api", "api", "node-a", ("10.1.0.1",), container_ports=ports, settings=MeshSettings())
    made = explainer(api, pod("web", "10.1.0.2"))
    with pytest.raises(QuestionError) as error:
        made.explain(question)
    assert str(error.value) == words
    for port in (1, 65535, "65535", "admin"):
        assert made.explain(Question("demo/api", port, from_="demo/web")).verdict is Verdict.ALLOW
