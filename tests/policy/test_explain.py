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
from agent.objects.model import MeshSettings, Pod, PortRange
from agent.objects.policy import DefaultPolicy
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
