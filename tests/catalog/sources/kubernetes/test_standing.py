"""What is in force of an API server's objects: faults, deletions, and addresses that two pods say they have."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalog.sources.kubernetes.reading import Decoded
from agent.catalog.sources.kubernetes.standing import Standings
from agent.objects.decode import RawNamespace, RawPod
from agent.objects.key import ObjectKey
from agent.objects.model import Pod
from agent.objects.policy import BrokenServer

NAMESPACE = ObjectKey("Namespace", "", "demo")
SERVER = ObjectKey("Server", "demo", "web")
GOOD = RawNamespace("demo", {"linkerd.io/inject": "enabled"})
BETTER = RawNamespace("demo", {})
CLOSED = BrokenServer("demo", "web")


def namespace(raw: RawNamespace | None = GOOD, *, uid: str = "1", fault: str = "") -> Decoded:
    return Decoded(NAMESPACE, uid, raw, fault, path="metadata.annotations" if fault else "")


def pod_key(name: str) -> ObjectKey:
    return ObjectKey("Pod", "demo", name)


def pod(name: str, *ips: str, started: str = "", terminating: bool = False, host_network: bool = False) -> Decoded:
    raw = RawPod(
        Pod("demo", name, "default", "n1", ips, uid=name, host_network=host_network), {}, True, terminating=terminating
    )
    return Decoded(pod_key(name), name, raw, started=started)


@pytest.fixture
def standings() -> Standings:
    return Standings()


def ips(standings: Standings, so_far: dict[ObjectKey, tuple[str, ...]]) -> dict[ObjectKey, tuple[str, ...]]:
    """Which pod has which addresses, as whoever is told knows it."""
    taken = standings.take()
    for key in taken.gone:
        del so_far[key]
    for key, raw in taken.changed.items():
        assert isinstance(raw, RawPod)
        so_far[key] = raw.pod.ips
    return so_far


def test_what_is_new_is_told_once(standings: Standings) -> None:
    standings.put(namespace())
    assert standings.take().changed == {NAMESPACE: GOOD}
    standings.put(namespace())
    taken = standings.take()
    assert (taken.changed, taken.gone) == ({}, ())


def test_what_is_deleted_is_gone_once(standings: Standings) -> None:
    standings.put(namespace())
    standings.take()
    standings.remove(NAMESPACE)
    assert standings.take().gone == (NAMESPACE,)
    standings.remove(NAMESPACE)
    assert standings.take().gone == ()


def test_what_came_and_went_in_between_was_never_there(standings: Standings) -> None:
    standings.put(namespace())
    standings.remove(NAMESPACE)
    taken = standings.take()
    assert (taken.changed, taken.gone) == ({}, ())


def test_a_fault_keeps_the_last_good_version_and_says_where_it_is(standings: Standings) -> None:
    standings.put(namespace())
    standings.take()
    standings.put(namespace(None, fault="metadata.annotations: wrong"))
    assert standings.take().changed == {}
    (fault,) = standings.faults
    assert fault.last_good
    assert str(fault) == "Namespace demo: metadata.annotations: wrong; its last good version stays in force"
    assert fault.origin.fields == {"object": "Namespace demo", "path": "metadata.annotations"}
    standings.put(namespace(BETTER))
    assert standings.faults == []
    assert standings.take().changed == {NAMESPACE: BETTER}


def test_a_fault_of_what_was_never_good_is_closed(standings: Standings) -> None:
    standings.put(Decoded(SERVER, "1", None, "spec.port: wrong", "spec.port", CLOSED))
    assert standings.take().changed == {SERVER: CLOSED}
    (fault,) = standings.faults
    assert (fault.last_good, fault.closed) == (False, True)


def test_a_stand_in_is_no_good_version(standings: Standings) -> None:
    standings.put(Decoded(SERVER, "1", None, "wrong", "", CLOSED))
    other = BrokenServer("demo", "other")
    standings.put(Decoded(SERVER, "1", None, "wrong in another way", "", other))
    assert standings.take().changed == {SERVER: other}


def test_the_last_good_version_of_another_object_of_that_name_is_nobodys(standings: Standings) -> None:
    standings.put(Decoded(SERVER, "1", BrokenServer("demo", "was good")))
    standings.take()
    standings.put(Decoded(SERVER, "2", None, "wrong", "", CLOSED))
    assert standings.take().changed == {SERVER: CLOSED}


def test_a_fault_without_a_stand_in_is_not_in_force(standings: Standings) -> None:
    standings.put(Decoded(SERVER, "1", None, "wrong"))
    assert standings.take().changed == {}
    (fault,) = standings.faults
    assert (fault.last_good, fault.closed) == (False, False)


def test_what_means_nothing_any_more_is_gone(standings: Standings) -> None:
    """A pod that has finished, a service that became a name."""
    standings.put(pod("a", "192.0.2.1"))
    standings.take()
    standings.put(Decoded(pod_key("a"), "a"))
    assert standings.take().gone == (pod_key("a"),)


def test_a_deleted_objects_fault_goes_with_it(standings: Standings) -> None:
    standings.put(Decoded(SERVER, "1", None, "wrong", "", CLOSED, remarks=("odd",)))
    standings.remove(SERVER)
    assert standings.faults == []
    assert standings.remarks == []


def test_remarks_are_those_of_the_newest_version(standings: Standings) -> None:
    standings.put(Decoded(NAMESPACE, "1", GOOD, remarks=("odd",)))
    assert [str(remark) for remark in standings.remarks] == ["Namespace demo: odd"]
    standings.put(namespace())
    assert standings.remarks == []


def test_what_was_remembered_is_in_force_and_a_fault_keeps_it(standings: Standings) -> None:
    standings.put(namespace())
    later = Standings()
    later.restore(standings.held)
    assert later.take().changed == {NAMESPACE: GOOD}
    later.put(namespace(None, fault="wrong"))
    (fault,) = later.faults
    assert fault.last_good


def test_an_address_is_that_of_the_pod_that_was_started_last(standings: Standings) -> None:
    known: dict[ObjectKey, tuple[str, ...]] = {}
    standings.put(pod("old", "192.0.2.1", "2001:db8::1", started="2026-01-01T00:00:00Z"))
    assert ips(standings, known) == {pod_key("old"): ("192.0.2.1", "2001:db8::1")}
    standings.put(pod("new", "192.0.2.1", started="2026-01-01T00:00:10Z"))
    assert ips(standings, known) == {pod_key("old"): ("2001:db8::1",), pod_key("new"): ("192.0.2.1",)}
    standings.remove(pod_key("old"))
    assert ips(standings, known) == {pod_key("new"): ("192.0.2.1",)}


def test_one_that_is_on_its_way_out_has_no_address_that_another_has(standings: Standings) -> None:
    standings.put(pod("leaving", "192.0.2.1", started="2026-01-01T00:00:10Z", terminating=True))
    standings.put(pod("staying", "192.0.2.1", started="2026-01-01T00:00:00Z"))
    assert ips(standings, {}) == {pod_key("leaving"): (), pod_key("staying"): ("192.0.2.1",)}


def test_an_address_that_was_given_up_goes_to_who_waits_for_it(standings: Standings) -> None:
    known: dict[ObjectKey, tuple[str, ...]] = {}
    standings.put(pod("first", "192.0.2.1", started="1"))
    standings.put(pod("second", "192.0.2.1", started="2"))
    ips(standings, known)
    standings.put(pod("second", "192.0.2.2", started="2"))
    assert ips(standings, known) == {pod_key("first"): ("192.0.2.1",), pod_key("second"): ("192.0.2.2",)}


def test_pods_on_the_hosts_network_share_its_address(standings: Standings) -> None:
    for name in ("a", "b"):
        standings.put(pod(name, "192.0.2.9", host_network=True))
    assert ips(standings, {}) == {pod_key("a"): ("192.0.2.9",), pod_key("b"): ("192.0.2.9",)}


names = st.sampled_from(["a", "b", "c"])
addresses = st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2", "192.0.2.3"]), max_size=2, unique=True)
versions = st.builds(
    lambda name, ips, started, terminating: pod(name, *ips, started=started, terminating=terminating),
    names,
    addresses,
    st.sampled_from(["", "1", "2"]),
    st.booleans(),
)


@given(st.lists(st.one_of(versions, names, st.just(None)), max_size=20))
def test_whatever_happens_each_address_is_one_pods_and_nobodys_only_if_nobody_wants_it(
    happenings: Iterable[Decoded | str | None],
) -> None:
    """None: whoever is told looks, so that what is told piece by piece is what is told at once."""
    standings, wanted, known = Standings(), dict[ObjectKey, Decoded](), dict[ObjectKey, tuple[str, ...]]()
    for each in happenings:
        if each is None:
            ips(standings, known)
        elif isinstance(each, str):
            standings.remove(pod_key(each))
            wanted.pop(pod_key(each), None)
        else:
            standings.put(each)
            wanted[each.key] = each
    ips(standings, known)
    assert known.keys() == wanted.keys()
    had = [ip for each in known.values() for ip in each]
    asked = {ip for each in wanted.values() if isinstance(each.found, RawPod) for ip in each.found.pod.ips}
    assert sorted(had) == sorted(asked)


def test_a_fault_that_is_found_later_is_told_of_the_object_in_the_version_in_which_it_was_read(
    standings: Standings,
) -> None:
    standings.put(Decoded(NAMESPACE, "1", GOOD, api_version="v1"))
    origin = standings.origin(NAMESPACE)
    assert (origin.object, origin.uid, origin.api_version) == ("Namespace demo", "1", "v1")
    assert standings.origin(SERVER).object == "Server demo/web", "of what is not there, nothing more is known"
