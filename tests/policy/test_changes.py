"""One object changes, comes or goes: what hangs on it is compiled anew, and nothing that was in force lingers."""

import ipaddress

import pytest
from msgspec.structs import replace

from agent.catalog.snapshot import Catalog, CatalogChange
from agent.identity.spiffe import SpiffeId
from agent.objects.key import ObjectKey
from agent.objects.model import ContainerPort, MeshSettings, Pod, PortRange
from agent.objects.policy import (
    AccountRef,
    AuthorizationPolicy,
    BrokenServer,
    DefaultPolicy,
    LabelSelector,
    MeshTLSAuthentication,
    NetworkAuthentication,
    NetworkRange,
    PolicyObject,
    Ref,
    Route,
    Server,
    ServerAuthorization,
    Target,
    TargetKind,
)
from agent.policy.identities import IdentityMatch
from agent.policy.index import PolicyIndex, PolicySettings
from agent.policy.model import Authorization, Client, Permits, Requirement

GROUP = "policy.linkerd.io"
PORT = 8080
API = Pod(
    "demo", "api", "api", "node-a", ("10.1.0.1",), labels={"app": "api"}, container_ports=(ContainerPort("http", PORT),)
)
SELECTED = LabelSelector((("app", "api"),))
SERVER = Server("demo", "api", PORT, SELECTED)
DEFAULT, DECIDES = "default:all-authenticated", "Server demo/api"


class Case:
    """An index, and a pod of which every answer is asked twice: the second comes from what was compiled."""

    def __init__(self, *policies: PolicyObject, pods: tuple[Pod, ...] = (API,)) -> None:
        self.index = PolicyIndex(Catalog(1, pods, policies=policies), PolicySettings("example.test"))
        self.says()

    def change(self, *policies: PolicyObject, pods: tuple[Pod, ...] = (), gone: tuple[ObjectKey, ...] = ()) -> None:
        self.index.apply(CatalogChange(2, pods, policies=policies, gone=gone))

    def says(self, pod: Pod = API, port: int = PORT) -> str:
        first = self.index.permits(pod, port)
        assert self.index.permits(pod, port) is first, "compiled once"
        return first.decided_by

    def allows(self, port: int = PORT) -> list[str]:
        return [each.name for each in self.index.permits(API, port).authorizations]


def test_a_server_comes_and_goes() -> None:
    case = Case()
    assert case.says() == DEFAULT
    case.change(SERVER)
    assert case.says() == DECIDES
    case.change(gone=(SERVER.key,))
    assert case.says() == DEFAULT
    case.change(gone=(SERVER.key,))
    assert case.says() == DEFAULT, "what is gone may go again"


@pytest.mark.parametrize(
    "changed",
    [
        replace(SERVER, port=9090),
        replace(SERVER, port="metrics"),
        replace(SERVER, selector=LabelSelector((("app", "web"),))),
        replace(SERVER, selector=None),
    ],
    ids=["another port", "another port's name", "other pods", "no pods at all"],
)
def test_a_server_that_means_something_else_lets_go_of_the_port_and_takes_it_again(changed: Server) -> None:
    case = Case(SERVER)
    assert case.says() == DECIDES
    case.change(changed)
    assert case.says() == DEFAULT
    case.change(SERVER)
    assert case.says() == DECIDES


def test_a_server_that_changes_what_it_allows_is_compiled_anew() -> None:
    case = Case(SERVER)
    assert case.allows() == []
    case.change(replace(SERVER, access_policy=DefaultPolicy.ALL_AUTHENTICATED))
    assert case.allows() == ["accessPolicy:all-authenticated"]


def test_of_two_servers_the_second_takes_over_when_the_first_goes() -> None:
    older, younger = replace(SERVER, created=1.0), replace(SERVER, name="second", created=2.0)
    case = Case(older, younger)
    assert case.says() == DECIDES
    case.change(gone=(older.key,))
    assert case.says() == "Server demo/second"
    case.change(older)
    assert case.says() == DECIDES


def test_a_pod_that_gets_other_labels_or_ports_is_matched_anew() -> None:
    case = Case(SERVER, replace(SERVER, name="named", port="http", selector=LabelSelector((("app", "web"),))))
    web = replace(API, labels={"app": "web"})
    case.change(pods=(web,))
    assert case.says(web) == "Server demo/named"
    moved = replace(web, container_ports=(ContainerPort("http", 9090),))
    case.change(pods=(moved,))
    assert (case.says(moved), case.says(moved, 9090)) == (DEFAULT, "Server demo/named")
    case.change(pods=(API,))
    assert case.says() == DECIDES


def test_a_pod_that_leaves_leaves_nothing_behind_for_the_next_of_its_name() -> None:
    case = Case(SERVER)
    space = case.index._spaces["demo"]
    assert space.tables.keys() == space.selected.keys() == {"demo/api"}
    case.change(gone=(ObjectKey("Pod", "demo", "api"),))
    assert not space.tables
    assert not space.selected
    assert case.says() == DECIDES


def test_a_service_that_goes_is_no_policy_whatever_it_is_called() -> None:
    case = Case(SERVER)
    case.change(gone=(ObjectKey("Service", "demo", "api"),))
    assert case.says() == DECIDES


def test_what_is_attached_to_a_server_or_to_its_namespace_comes_and_goes() -> None:
    to_server = AuthorizationPolicy("demo", "one", Target(TargetKind.SERVER, GROUP, "api"))
    to_other = AuthorizationPolicy("demo", "other", Target(TargetKind.SERVER, GROUP, "web"))
    to_all = AuthorizationPolicy("demo", "two", Target(TargetKind.NAMESPACE, "", "demo"))
    named = ServerAuthorization("demo", "three", "api", None, unauthenticated=True)
    case = Case(SERVER)
    for each, expected in (
        (to_server, [to_server]),
        (to_other, [to_server]),
        (to_all, [to_server, to_all]),
        (named, [to_server, to_all, named]),
    ):
        case.change(each)
        assert case.allows() == [str(other.key) for other in sorted(expected, key=lambda each: each.key)]
    left = [to_server.key, to_all.key, named.key]
    while left:
        case.change(gone=(left.pop(0),))
        assert case.allows() == [str(key) for key in left]


def test_an_authorization_that_selects_servers_follows_their_labels() -> None:
    selecting = ServerAuthorization("demo", "all", None, LabelSelector((("tier", "front"),)), unauthenticated=True)
    front = replace(SERVER, labels={"tier": "front"})
    case = Case(selecting, SERVER)
    assert case.allows() == []
    case.change(front)
    assert case.allows() == ["ServerAuthorization demo/all"]
    case.change(replace(front, labels={"tier": "back"}))
    assert case.allows() == []


@pytest.mark.parametrize("of", ["mesh", "network"])
def test_what_a_policy_refers_to_changes_comes_and_goes_in_another_namespace_too(of: str) -> None:
    """Who was taken off a list must not be let in by what was compiled before."""
    mesh = MeshTLSAuthentication("shared", "who", identities=("one.example.test",))
    network = NetworkAuthentication("shared", "who", networks=(NetworkRange("192.0.2.0/25"),))
    former: PolicyObject = mesh if of == "mesh" else network
    changed: PolicyObject = (
        replace(mesh, identities=("two.example.test",))
        if of == "mesh"
        else replace(network, networks=(NetworkRange("192.0.2.128/25"),))
    )
    ref = Ref(former.key.kind, "shared", "who")
    target = Target(TargetKind.SERVER, GROUP, "api")
    policy = AuthorizationPolicy("demo", "one", target, **{of: ref})
    case = Case(SERVER, policy, former)

    def means() -> tuple[frozenset[str], list[str], str]:
        (found,) = case.index.permits(API, PORT).authorizations
        names = frozenset() if found.identities is None else found.identities.names
        return names, [str(each.network) for each in found.networks], found.nobody

    first, second = (
        (
            (frozenset({"one.example.test"}), [], ""),
            (frozenset({"two.example.test"}), [], ""),
        )
        if of == "mesh"
        else ((frozenset(), ["192.0.2.0/25"], ""), (frozenset(), ["192.0.2.128/25"], ""))
    )
    assert means() == first
    case.change(changed)
    assert means() == second
    case.change(gone=(former.key,))
    assert means() == (frozenset(), [], f"{ref} does not exist")
    case.change(former)
    assert means() == first
    kept = case.index.permits(API, PORT)
    case.change(replace(changed, name="another"))
    assert case.index.permits(API, PORT) is kept, "nothing here refers to that one"


def test_routes_that_have_authorizations_are_named_and_others_are_not() -> None:
    route = Route("demo", "get", TargetKind.HTTP_ROUTE, GROUP, ("api",))
    policy = AuthorizationPolicy("demo", "get", Target(TargetKind.HTTP_ROUTE, GROUP, "get"))
    case = Case(SERVER, route)
    assert case.index.permits(API, PORT).only_routes == ()
    case.change(policy)
    assert case.index.permits(API, PORT).only_routes == ("HTTPRoute demo/get",)
    case.change(replace(route, servers=("web",)))
    assert case.index.permits(API, PORT).only_routes == ()
    case.change(route)
    case.change(gone=(policy.key,))
    assert case.index.permits(API, PORT).only_routes == ()


def test_other_namespaces_keep_what_they_have() -> None:
    elsewhere = replace(API, namespace="shop")
    case = Case(SERVER, pods=(API, elsewhere))
    kept = case.index.permits(elsewhere, PORT)
    case.change(AuthorizationPolicy("demo", "one", Target(TargetKind.NAMESPACE, "", "demo")))
    assert case.index.permits(elsewhere, PORT) is kept
    assert case.says(elsewhere) == DEFAULT


def test_an_identity_is_demanded_on_the_ports_that_the_annotation_names() -> None:
    settings = MeshSettings(identity_ports=(PortRange(9000, 9001),), default_policy="all-unauthenticated")
    demanding = replace(API, settings=settings)
    case = Case(SERVER, pods=(demanding,))
    assert [case.says(demanding, port) for port in (PORT, 8999, 9000, 9001, 9002)] == [
        DECIDES,
        "default:all-unauthenticated",
        *["default:all-unauthenticated+require-identity"] * 2,
        "default:all-unauthenticated",
    ]


# Servers that cannot be read


def test_a_server_that_cannot_be_read_closes_what_no_other_selects_in_its_namespace_until_it_is_mended() -> None:
    elsewhere = replace(API, namespace="shop")
    case = Case(SERVER, pods=(API, elsewhere))
    first, second = BrokenServer("demo", "b"), BrokenServer("demo", "c")
    other_port = PORT + 1
    case.change(first, second)
    closed = case.index.permits(API, other_port)
    assert closed == Permits("Server demo/b", (), broken=True)
    assert case.says() == DECIDES, "its own port is another Server's"
    assert case.says(elsewhere, other_port) == DEFAULT, "and other namespaces are not closed"
    case.change(gone=(first.key,))
    assert case.says(port=other_port) == "Server demo/c", "one of the two is left"
    case.change(Server("demo", "c", 9090, SELECTED))
    assert case.says(port=other_port) == DEFAULT
    assert case.says(port=9090) == "Server demo/c"
    case.change(second)
    assert case.says(port=9090) == "Server demo/c"
    assert case.index.permits(API, 9090) == Permits("Server demo/c", (), broken=True), "it cannot be told any more"
    case.change(gone=(second.key,))
    assert case.says(port=9090) == DEFAULT


def test_a_policy_of_which_not_even_the_namespace_can_be_read_closes_every_namespace() -> None:
    elsewhere = replace(API, namespace="shop")
    case = Case(pods=(API, elsewhere))
    case.says(elsewhere)
    somewhere = BrokenServer("", "all.yaml")
    case.change(somewhere)
    for pod in (API, elsewhere, replace(API, namespace="new")):
        permits = case.index.permits(pod, PORT)
        assert permits == Permits("a policy that cannot be read, in all.yaml", (), broken=True)
    case.change(gone=(somewhere.key,))
    assert [case.says(pod) for pod in (API, elsewhere)] == [DEFAULT, DEFAULT]


def test_an_identity_that_is_demanded_opens_nothing_that_is_closed() -> None:
    demanding = replace(API, settings=MeshSettings(identity_ports=(PortRange(PORT, PORT),)))
    case = Case(BrokenServer("demo", "b"), pods=(demanding,))
    assert case.index.permits(demanding, PORT) == Permits("Server demo/b", (), broken=True)


# what is kept, and what is kept no longer


def test_a_server_that_is_gone_selects_no_pod_that_comes_later() -> None:
    case = Case(SERVER)
    case.change(gone=(SERVER.key,))
    late = replace(API, name="late")
    case.change(pods=(late,))
    assert case.says(late) == DEFAULT


def test_a_pod_is_matched_by_the_labels_that_it_is_asked_with() -> None:
    """A worker may ask with the pod as a connection knew it."""
    case = Case(SERVER)
    assert case.says(replace(API, labels={"app": "web"})) == DEFAULT
    assert case.says() == DECIDES


def test_what_was_compiled_is_asked_again_and_not_compiled_again() -> None:
    second = replace(API, name="second")
    case = Case(SERVER, pods=(API, second))
    space = case.index._spaces["demo"]
    table = space.tables[API.key]
    case.says()
    assert space.tables[API.key] is table
    assert space.servers_of(API) is space.servers_of(replace(API))
    assert case.index.permits(second, PORT) is case.index.permits(API, PORT), "once for each Server"
    case.change(gone=(ObjectKey("Service", "demo", "api"),))
    assert space.tables[API.key] is table, "a Service is no policy"


def test_a_server_may_change_while_nothing_is_compiled() -> None:
    policy = AuthorizationPolicy("demo", "one", Target(TargetKind.NAMESPACE, "", "demo"))
    case = Case(SERVER, policy)
    case.change(gone=(policy.key,))
    case.change(replace(SERVER, access_policy=DefaultPolicy.ALL_AUTHENTICATED))
    assert case.allows() == ["accessPolicy:all-authenticated"]


def test_whatever_goes_may_go_again_and_a_route_that_goes_is_named_no_more() -> None:
    policy = AuthorizationPolicy("demo", "get", Target(TargetKind.HTTP_ROUTE, GROUP, "get"))
    kept: list[PolicyObject] = [
        Route("demo", "get", TargetKind.HTTP_ROUTE, GROUP, ("api",)),
        MeshTLSAuthentication("demo", "who", ("*",)),
        NetworkAuthentication("demo", "where", ()),
        ServerAuthorization("demo", "web", "web", None),
    ]
    case = Case(SERVER, policy, *kept)
    assert case.index.permits(API, PORT).only_routes == ("HTTPRoute demo/get",)
    for _ in range(2):
        case.change(gone=tuple(each.key for each in kept))
        assert case.index.permits(API, PORT).only_routes == ()
        case.change(gone=(ObjectKey("EgressNetwork", "demo", "out"), ObjectKey("AuthorizationPolicy", "demo", "none")))
    case.change(kept[0])
    assert case.index.permits(API, PORT).only_routes == ("HTTPRoute demo/get",)


# what each object is compiled to


def test_routes_are_named_only_where_nothing_else_could_let_anybody_in() -> None:
    route = Route("demo", "get", TargetKind.HTTP_ROUTE, GROUP, ("api",))
    policy = AuthorizationPolicy("demo", "get", Target(TargetKind.HTTP_ROUTE, GROUP, "get"))
    case = Case(SERVER, route, policy)
    named = ServerAuthorization("demo", "three", "api", None, unauthenticated=True)
    case.change(named)
    assert case.index.permits(API, PORT).only_routes == ()
    case.change(replace(SERVER, access_policy=DefaultPolicy.AUDIT), gone=(named.key,))
    permits = case.index.permits(API, PORT)
    assert (permits.only_routes, permits.audit, permits.authorizations) == ((), True, ())
    case.change(SERVER)
    permits = case.index.permits(API, PORT)
    assert (permits.only_routes, permits.audit) == (("HTTPRoute demo/get",), False)


@pytest.mark.parametrize(
    ("refs", "nobody"),
    [
        ({"mesh": Ref("MeshTLSAuthentication", "demo", "gone")}, "MeshTLSAuthentication demo/gone does not exist"),
        ({"network": Ref("NetworkAuthentication", "demo", "gone")}, "NetworkAuthentication demo/gone does not exist"),
        ({"mesh": Ref("MeshTLSAuthentication", "demo", "empty")}, "MeshTLSAuthentication demo/empty names nobody"),
    ],
)
def test_a_policy_that_refers_to_nobody_lets_nobody_in_and_says_why(refs: dict[str, Ref], nobody: str) -> None:
    policy = AuthorizationPolicy("demo", "one", Target(TargetKind.SERVER, GROUP, "api"), **refs)
    case = Case(SERVER, policy, MeshTLSAuthentication("demo", "empty"))
    (found,) = case.index.permits(API, PORT).authorizations
    assert found == Authorization("AuthorizationPolicy demo/one", Requirement.NOTHING, nobody=nobody)
    anybody = Client(ipaddress.ip_address("10.1.0.9"), SpiffeId.parse("spiffe://example.test/ns/demo/sa/web"), tls=True)
    assert found.lacks(anybody) == nobody


def test_identities_are_names_suffixes_and_spiffe_ids_each_as_it_is_written() -> None:
    texts = ("web.example.test", "*.example.test", "*.a.test", "spiffe://example.test/ns/demo/sa/web")
    mesh = MeshTLSAuthentication("demo", "who", texts, (AccountRef("demo", "api"),), ("shop",))
    target = Target(TargetKind.SERVER, GROUP, "api")
    case = Case(SERVER, AuthorizationPolicy("demo", "one", target, mesh=Ref("MeshTLSAuthentication", "demo", "who")))
    case.change(mesh)
    expected = IdentityMatch(
        everyone=False,
        ids=frozenset({SpiffeId.parse(texts[3])}),
        names=frozenset({"web.example.test"}),
        suffixes=(".a.test", ".example.test"),
        accounts=frozenset({("demo", "api")}),
        namespaces=frozenset({"shop"}),
    )
    (found,) = case.index.permits(API, PORT).authorizations
    assert found == Authorization("AuthorizationPolicy demo/one", Requirement.MESH_IDENTITY, identities=expected)
    case.change(replace(mesh, identities=("*",), accounts=(), namespaces=()))
    (found,) = case.index.permits(API, PORT).authorizations
    assert found.identities == IdentityMatch(everyone=True)


# probes


def test_a_port_that_is_probed_is_otherwise_what_it_was() -> None:
    """From the node's addresses the kubelet is let in; who else comes is judged by the port's own rules."""
    settings = MeshSettings(identity_ports=(PortRange(9000, 9000),), default_policy="all-unauthenticated")
    probed = replace(API, settings=settings, probe_ports=(PORT, 9000, 9001))
    plain = replace(probed, name="plain", probe_ports=())
    case = Case(SERVER, pods=(probed, plain))
    assert case.index.permits(probed, PORT).probe is None
    case.index.set_node_addresses(["192.0.2.1", "2001:db8::1"])
    for port, decided_by in (
        (PORT, DECIDES),
        (9000, "default:all-unauthenticated+require-identity"),
        (9001, "default:all-unauthenticated"),
    ):
        found, without = case.index.permits(probed, port), case.index.permits(plain, port)
        assert found.probe is not None
        assert [str(each.network) for each in found.probe.networks] == ["192.0.2.1/32", "2001:db8::1/128"]
        assert found.decided_by == decided_by
        assert without.probe is None
        assert replace(found, probe=None) == without
    assert case.index.permits(probed, 9002).probe is None
    case.index.set_node_addresses([])
    assert case.index.permits(probed, PORT).probe is None
