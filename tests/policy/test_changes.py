"""One object changes, comes or goes: what hangs on it is compiled anew, and nothing that was in force lingers."""

import pytest
from msgspec.structs import replace

from agent.catalog.snapshot import Catalog, CatalogChange
from agent.objects.key import ObjectKey
from agent.objects.model import ContainerPort, MeshSettings, Pod, PortRange
from agent.objects.policy import (
    AuthorizationPolicy,
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
from agent.policy.index import PolicyIndex, PolicySettings

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
