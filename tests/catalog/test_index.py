"""Look-ups over a catalog that changes, against ones that walk through everything that there is."""

from hypothesis import given
from hypothesis import strategies as st

from agent.catalog.index import CatalogIndex
from agent.catalog.snapshot import Catalog, CatalogChange
from agent.objects.key import ObjectKey, PodKey, pod_key
from agent.objects.model import Pod
from tests.catalog.services import CLUSTER_IP, CLUSTER_IP6, SERVED, Services, service

NODES, NAMES, IPS = ("node-a", "node-b", ""), ("a", "b", "c", "d"), ("192.0.2.1", "192.0.2.2", "2001:db8::1")
PODS = st.builds(
    lambda name, node, ips, host: Pod("demo", name, "web", node, tuple(ips), host_network=host),
    st.sampled_from(NAMES),
    st.sampled_from(NODES),
    st.lists(st.sampled_from(IPS), max_size=2, unique=True),
    st.booleans(),
)
CHANGES = st.lists(
    st.tuples(
        st.lists(PODS, max_size=3, unique_by=lambda pod: pod.name),
        st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
    ),
    max_size=8,
)


@given(CHANGES)
def test_pods_are_found_by_node_name_and_address_whatever_came_and_went(
    changes: list[tuple[list[Pod], list[str]]],
) -> None:
    """An address that two pods claim is one of theirs, and free when neither has it."""
    index, naive = CatalogIndex(Catalog()), dict[PodKey, Pod]()
    for version, (pods, gone) in enumerate(changes, 1):
        keys = {pod.key for pod in pods}
        leaving = [name for name in gone if pod_key("demo", name) not in keys]
        index.apply(CatalogChange(version, tuple(pods), gone=tuple(ObjectKey("Pod", "demo", name) for name in leaving)))
        naive = {key: pod for key, pod in naive.items() if key not in keys and pod.name not in leaving}
        naive |= {pod.key: pod for pod in pods}
        assert index.version == version
        assert {pod.key: pod for pod in index.pods()} == naive
        for node in (*NODES, "node-c"):
            on_it = index.pods_on(node)
            assert {pod.key: pod for pod in on_it} == {key: pod for key, pod in naive.items() if pod.node == node}
            assert len(on_it) == len({pod.key for pod in on_it})
        for name in NAMES:
            assert index.pod(pod_key("demo", name)) == naive.get(pod_key("demo", name))
        for ip in IPS:
            found = index.pod_at(ip)
            assert found is None or (naive[found.key] == found and ip in found.ips and not found.host_network)
            claimants = [pod for pod in naive.values() if ip in pod.ips and not pod.host_network]
            if len(claimants) == 1 and not shared(changes[:version], ip):
                assert found == claimants[0]
            if not claimants:
                assert found is None


def shared(changes: list[tuple[list[Pod], list[str]]], ip: str) -> bool:
    """Whether two pods may have claimed an address at once, by their names."""
    return len({pod.name for pods, _ in changes for pod in pods if ip in pod.ips and not pod.host_network}) > 1


@given(CHANGES)
def test_a_process_that_starts_with_the_catalog_has_what_one_has_that_followed(
    changes: list[tuple[list[Pod], list[str]]],
) -> None:
    followed = CatalogIndex(Catalog())
    for version, (pods, gone) in enumerate(changes, 1):
        keys = tuple(ObjectKey("Pod", "demo", name) for name in gone if name not in {pod.name for pod in pods})
        followed.apply(CatalogChange(version, tuple(pods), gone=keys))
    started = CatalogIndex(followed.catalog)
    assert started.catalog == followed.catalog
    for node in NODES:
        assert started.pods_on(node) == [pod for pod in started.pods() if pod.node == node]


def test_whose_meaning_changes_is_told_of_what_comes_and_of_what_was_there() -> None:
    """Connections to these are looked at again: one too many is only looked at, one too few goes on."""
    web = service(clusterIPs=[CLUSTER_IP, CLUSTER_IP6], externalIPs=["198.51.100.9"])
    index = Services(web, SERVED).index
    index.apply(CatalogChange(7, (Pod("demo", "a", "web", "node-a", ("192.0.2.1",)),)))
    moved = CatalogChange(8, (Pod("demo", "a", "web", "node-a", ("192.0.2.2",)),))
    assert index.addresses_touched(moved) == {"192.0.2.1", "192.0.2.2"}
    assert index.addresses_touched(CatalogChange(8, gone=(ObjectKey("Pod", "demo", "a"),))) == {"192.0.2.1"}
    gone = CatalogChange(8, gone=(ObjectKey("Service", "demo", "web"), ObjectKey("Service", "demo", "none")))
    assert index.addresses_touched(gone) == {CLUSTER_IP, CLUSTER_IP6, "198.51.100.9"}
