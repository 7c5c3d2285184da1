"""What a published bundle says, and which namespaces get one. Written: tests/kubernetes/test_bundle_maps.py."""

import json
from typing import Any

import pytest

from agent.authority import ca
from agent.authority.kubernetes.bundle_maps import Namespaces, content
from agent.authority.ledger import Publication, Trust
from agent.kubernetes.errors import Unreachable
from tests.tls.pki import Pki

TRUST = Trust(ca.pem(Pki().root.certificate), "aa", 1e12)


def test_it_has_the_roots_and_the_document_and_changes_with_no_revocation() -> None:
    first = content(Publication(TRUST, sequence=3, trust_sequence=3), "example.test")
    assert first["ca.crt"] == TRUST.anchors_pem.decode()
    document = json.loads(first["bundle.json"])
    assert document["spiffe_sequence"] == 3
    assert {key["use"] for key in document["keys"]} == {"x509-svid"}
    revoked = Publication(TRUST, ("spiffe://example.test/ns/a/sa/b",), ("aa",), (), 9, 3)
    assert content(revoked, "example.test") == first
    assert content(Publication(TRUST, sequence=9, trust_sequence=9), "example.test") != first


def namespace(name: str, value: str | None = None, **more: Any) -> bytes:
    annotations = {} if value is None else {"annotations": {"linkerd.io/inject": value}}
    return json.dumps({"metadata": {"name": name, **annotations, **more}}).encode()


@pytest.fixture
def told() -> list[None]:
    return []


@pytest.fixture
def namespaces(told: list[None]) -> Namespaces:
    return Namespaces(lambda: told.append(None))


@pytest.mark.parametrize(
    ("value", "injected"), [("enabled", True), ("ingress", True), ("disabled", False), ("yes", False), (None, False)]
)
def test_a_namespace_is_injected_that_says_so(namespaces: Namespaces, value: str | None, injected: bool) -> None:
    namespaces.begin()
    namespaces.put(namespace("shop", value))
    namespaces.complete()
    assert namespaces.injected == ({"shop"} if injected else set())


def test_what_happens_to_one_is_told(namespaces: Namespaces, told: list[None]) -> None:
    namespaces.begin()
    namespaces.complete()
    steps = []
    for raw in (namespace("shop", "enabled"), namespace("shop", "disabled"), namespace("shop", "enabled")):
        namespaces.put(raw)
        steps.append(set(namespaces.injected))
    namespaces.remove(namespace("shop", "enabled"))
    assert steps == [{"shop"}, set(), {"shop"}]
    assert (namespaces.injected, len(told)) == (set(), 5)


def test_one_that_is_being_deleted_gets_nothing_any_more(namespaces: Namespaces) -> None:
    namespaces.put(namespace("shop", "enabled"))
    namespaces.put(namespace("shop", "enabled", deletionTimestamp="2027-01-15T08:00:00Z"))
    assert namespaces.injected == set()


def test_what_a_new_list_does_not_have_is_gone_and_not_before_it_is_complete(namespaces: Namespaces) -> None:
    for name in ("shop", "bank"):
        namespaces.put(namespace(name, "enabled"))
    assert not namespaces.complete_once
    namespaces.begin()
    namespaces.put(namespace("bank", "enabled"))
    assert namespaces.injected == {"shop", "bank"}
    namespaces.complete()
    assert (namespaces.injected, namespaces.complete_once) == ({"bank"}, True)


def test_what_is_no_namespace_has_the_watch_begun_anew(namespaces: Namespaces) -> None:
    with pytest.raises(Unreachable, match="no namespace"):
        namespaces.put(b"{}")
