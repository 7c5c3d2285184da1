"""Every name of Linkerd's is known for what it means here, said where it means nothing, and in the document."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from agent.catalog.remarks import MAX_SAID
from agent.catalog.snapshot import CatalogChange
from agent.catalog.sources.files.directory import FilesSource
from agent.manifests.fault import Fault, Remark
from agent.manifests.origin import Origin
from agent.objects import annotations
from agent.objects.field import FaultError, Field
from agent.objects.meanings import FAMILIES, MAX_NAME, NAMES, Meaning, check, known, meant
from agent.policy.explain import Explainer, Question, Verdict
from tests.policy.world import World, manifest, read, text_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "annotations.md"

LINKERDS = [
    "config.alpha.linkerd.io/proxy-enable-native-sidecar",
    "config.alpha.linkerd.io/proxy-wait-before-exit-seconds",
    "config.beta.linkerd.io/proxy-enable-native-sidecar",
    "config.linkerd.io/access-log",
    "config.linkerd.io/admin-port",
    "config.linkerd.io/close-wait-timeout",
    "config.linkerd.io/control-port",
    "config.linkerd.io/debug-image",
    "config.linkerd.io/debug-image-pull-policy",
    "config.linkerd.io/debug-image-version",
    "config.linkerd.io/default-inbound-policy",
    "config.linkerd.io/enable-debug-sidecar",
    "config.linkerd.io/enable-external-profiles",
    "config.linkerd.io/image-pull-policy",
    "config.linkerd.io/inbound-port",
    "config.linkerd.io/init-image",
    "config.linkerd.io/init-image-version",
    "config.linkerd.io/opaque-ports",
    "config.linkerd.io/outbound-port",
    "config.linkerd.io/pod-inbound-ports",
    "config.linkerd.io/proxy-await",
    "config.linkerd.io/proxy-cpu-limit",
    "config.linkerd.io/proxy-cpu-ratio-limit",
    "config.linkerd.io/proxy-cpu-request",
    "config.linkerd.io/proxy-disable-inbound-protocol-detect-timeout",
    "config.linkerd.io/proxy-disable-outbound-protocol-detect-timeout",
    "config.linkerd.io/proxy-ephemeral-storage-limit",
    "config.linkerd.io/proxy-ephemeral-storage-request",
    "config.linkerd.io/proxy-gid",
    "config.linkerd.io/proxy-image",
    "config.linkerd.io/proxy-inbound-connect-timeout",
    "config.linkerd.io/proxy-inbound-discovery-cache-unused-timeout",
    "config.linkerd.io/proxy-log-format",
    "config.linkerd.io/proxy-log-level",
    "config.linkerd.io/proxy-memory-limit",
    "config.linkerd.io/proxy-memory-request",
    "config.linkerd.io/proxy-outbound-connect-timeout",
    "config.linkerd.io/proxy-outbound-discovery-cache-unused-timeout",
    "config.linkerd.io/proxy-require-identity-inbound-ports",
    "config.linkerd.io/proxy-uid",
    "config.linkerd.io/proxy-version",
    "config.linkerd.io/shutdown-grace-period",
    "config.linkerd.io/skip-inbound-ports",
    "config.linkerd.io/skip-outbound-ports",
    "config.linkerd.io/skip-subnets",
    "linkerd.io/inject",
]
"""Linkerd's reference of proxy configuration, of the edge releases of April 2026."""


def documented() -> dict[str, tuple[str, str, str]]:
    """Verdict, kinds and words by name, from the document's tables."""
    found: dict[str, tuple[str, str, str]] = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4:
            for name in re.findall(r"`([^`]+)`", cells[0]):
                assert name not in found, f"{name} is there twice"
                found[name] = (cells[1], cells[2], cells[3])
    return found


def test_the_document_says_of_every_name_what_the_table_says() -> None:
    table = {**NAMES, **{f"{prefix}*": each for prefix, each in FAMILIES.items()}}
    assert documented() == {
        name: (str(each.meaning), ", ".join(each.kinds) or "-", each.why) for name, each in table.items()
    }


@pytest.mark.parametrize("name", LINKERDS)
def test_every_annotation_of_linkerds_reference_is_known(name: str) -> None:
    assert known(name) is not None


@pytest.mark.parametrize("name", [name for name, each in NAMES.items() if each.narrows])
def test_what_keeps_somebody_out_is_honoured(name: str) -> None:
    assert NAMES[name].meaning is Meaning.HONOURED


def said(*objects: tuple[str, dict[str, Any]]) -> list[str]:
    loaded = read(text_of(manifest(title, body) for title, body in objects))
    assert loaded.faults == ()
    return [each.message for each in loaded.remarks]


NOTHING = [name for name, each in NAMES.items() if each.meaning is Meaning.NOTHING]


@pytest.mark.parametrize("name", [*NOTHING, "viz.linkerd.io/tap-enabled", "mirror.linkerd.io/exported"])
@pytest.mark.parametrize("kind", ["Pod demo/a", "Namespace demo", "HTTPRoute demo/r", "Server demo/s"])
def test_what_has_no_meaning_here_is_said_on_every_kind_of_object(name: str, kind: str) -> None:
    spec = {"podSelector": {}, "port": 80} if kind.startswith("Server") else {}
    (words,) = said((kind, {"metadata": {"annotations": {name: "true"}}, "spec": spec}))
    found = known(name)
    assert found is not None
    assert words == f"{name} has no meaning here: {found.why}"


def test_nothing_is_said_of_what_is_honoured_of_records_and_of_others() -> None:
    pod = {
        "metadata": {
            "annotations": {
                "linkerd.io/inject": "enabled",
                "config.linkerd.io/default-inbound-policy": "deny",
                "config.linkerd.io/opaque-ports": "22",
                "quietwire.io/netns": "a",
                "quietwire.io/egress-mode": "allow",
                "linkerd.io/proxy-version": "v1",
                "linkerd.io/created-by": "somebody",
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
                "linkerd.example.com/team": "a",
                "inject": "yes",
            },
            "labels": {"linkerd.io/control-plane-ns": "linkerd", "linkerd.io/workload-ns": "demo", "app": "a"},
        }
    }
    assert said(("Pod demo/a", pod), ("Namespace demo", {"metadata": {"labels": {"linkerd.io/extension": "x"}}})) == []


def test_what_is_read_elsewhere_is_said_where_it_stands() -> None:
    server = {
        "metadata": {"annotations": {annotations.DEFAULT_POLICY: "deny"}},
        "spec": {"podSelector": {}, "port": 80},
    }
    assert said(("Server demo/s", server)) == [
        f"{annotations.DEFAULT_POLICY} has no meaning on a Server: it is read on a Pod or a Namespace"
    ]
    assert said(("Namespace demo", {"metadata": {"annotations": {annotations.NETNS: "a"}}})) == [
        f"{annotations.NETNS} has no meaning on a Namespace: it is read on a Pod"
    ]
    assert said(("Pod demo/a", {"metadata": {"labels": {annotations.INJECT: "disabled"}}})) == [
        f"{annotations.INJECT} is a label here, and has no meaning as one: write it as an annotation"
    ]


def test_a_pod_on_the_hosts_network_that_asks_to_be_meshed_is_told_that_it_is_not() -> None:
    def told(value: str, *, host_network: bool) -> list[str]:
        metadata = {"annotations": {annotations.INJECT: value}}
        return said(("Pod demo/a", {"metadata": metadata, "spec": {"hostNetwork": host_network}}))

    assert told("enabled", host_network=True) == [
        f"{annotations.INJECT} has no meaning on the host's network: the pod is not meshed"
    ]
    assert told("disabled", host_network=True) == []
    assert told("enabled", host_network=False) == []


def test_a_label_that_is_read_as_one_is_no_annotation() -> None:
    name = annotations.LEFT_BY_LINKERD
    assert said(("Namespace demo", {"metadata": {"labels": {name: "disabled"}}})) == []
    assert said(("Namespace demo", {"metadata": {"annotations": {name: "disabled"}}})) == [
        f"{name} is an annotation here, and has no meaning as one: write it as a label"
    ]
    for where in ("labels", "annotations"):
        assert said(("Pod demo/a", {"metadata": {where: {name: "disabled"}}})) == [
            f"{name} has no meaning on a Pod: it is read on a Namespace"
        ]


def test_host_bits_in_an_annotation_are_said_with_what_counts() -> None:
    body = {"metadata": {"annotations": {annotations.SKIP_SUBNETS: "1.1.1.1/24"}}}
    for title in ("Pod demo/a", "Namespace demo"):
        assert said((title, body)) == [
            f"{annotations.SKIP_SUBNETS}: 1.1.1.1/24 has host bits set: 1.1.1.0/24 is what counts"
        ]


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("linkerd.io/injct", "linkerd.io/inject"),
        ("config.linkerd.io/inject", "linkerd.io/inject"),
        ("config.linkerd.io/skip-inbound-port", "config.linkerd.io/skip-inbound-ports"),
        ("config.linkerd.io/Proxy-Log-Level", "config.linkerd.io/proxy-log-level"),
        ("config.linkrd.io/skip-subnets", "config.linkerd.io/skip-subnets"),
        ("retry.linkerd.io/htp", "retry.linkerd.io/http"),
        ("quietwire.io/netn", "quietwire.io/netns"),
    ],
)
def test_a_slip_is_said_with_the_name_that_is_nearest(name: str, right: str) -> None:
    (words,) = said(("Pod demo/a", {"metadata": {"annotations": {name: "enabled"}}}))
    assert words == f"{name} is not known, and has no meaning here; is {right} meant?"


def test_an_unknown_name_of_linkerds_domain_is_said_though_nothing_is_like_it() -> None:
    name = "config.linkerd.io/something-of-tomorrow"
    (words,) = said(("Pod demo/a", {"metadata": {"annotations": {name: "1"}}}))
    assert words == f"{name} is not known, and has no meaning here"


SLIPS = [
    "config.linkerd.io/default-inbound-polcy",
    "config.linkerd.io/default-policy",
    "config.linkerd.io/inbound-policy",
    "config.linkerd.io/Default-Inbound-Policy",
    "linkerd.io/default-inbound-policy",
    "config.linkrd.io/default-inbound-policy",
    "config.linkerd.io/require-identity-inbound-ports",
    "config.linkerd.io/proxy-require-identity-on-inbound-ports",
    "config.linkerd.io/require-identity-ports",
    "quietwire.io/egress-mod",
    "quietwire.io/egress_mode",
    "quietwire.com/egress-mode",
]


@pytest.mark.parametrize("name", SLIPS)
@pytest.mark.parametrize("of", ["Pod demo/api", "Namespace demo"])
def test_a_slip_of_what_would_keep_somebody_out_is_an_error_and_closes(name: str, of: str) -> None:
    annotated = {"metadata": {"annotations": {name: "deny"}}, "status": {"podIP": "10.1.0.10"}}
    objects: dict[str, dict[str, Any]] = {
        "Pod demo/api": {"metadata": {}, "status": {"podIP": "10.1.0.10"}},
        of: annotated,
    }
    world = World(text_of(manifest(title, body) for title, body in objects.items()), default="all-unauthenticated")
    (fault,) = world.faults
    assert fault.closed
    assert f"there is no {name}, and {meant(name)} is surely meant" in fault.reason
    explainer = Explainer(world.pods, world.policy, egress_mode="allow")
    for port in (80, 9000):
        answer = explainer.explain(Question(to="demo/api", port=port, from_ip="10.1.0.9"))
        assert answer.verdict is Verdict.DENY
    assert world.pod("demo/api").settings.egress_mode == annotations.MESHED_ONLY


@pytest.mark.parametrize("name", [*NAMES, "app.kubernetes.io/name", "config.linkerd.io/proxy-log-leve"])
def test_no_known_name_and_no_other_slip_is_an_error(name: str) -> None:
    check({name: Field("whatever", 1)})


def test_a_name_longer_than_any_is_compared_with_none() -> None:
    assert meant("config.linkerd.io/default-inbound-policy" + "y" * MAX_NAME) == ""
    with pytest.raises(FaultError):
        check({"config.linkerd.io/default-inbound-policyy": Field("deny", 1)})


# -- where it stands, and how often it is said --


def test_a_remark_has_file_and_line_and_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.yaml").write_text(
        "kind: Pod\nmetadata: {name: b}\n---\nkind: Pod\nmetadata:\n  name: a\n  annotations:\n"
        "    x: y\n    config.linkerd.io/proxy-uid: '1'\n"
    )
    source = FilesSource(tmp_path, ignore)
    with caplog.at_level(logging.WARNING, "quietwire.catalog"):
        source.load()
        source.load()
        (tmp_path / "b.yaml").write_text("kind: Pod\nmetadata: {name: c}\n")
        source.load()
    where = Remark(
        Origin("a.yaml", 9), "Pod default/a", f"config.linkerd.io/proxy-uid has no meaning here: {_why('proxy-uid')}"
    )
    assert [record.getMessage() for record in caplog.records] == [f"manifest: {where}"]


def ignore(change: CatalogChange | None, faults: tuple[Fault, ...]) -> None:
    """What is published is looked at elsewhere."""


def _why(name: str) -> str:
    return NAMES[f"config.linkerd.io/{name}"].why


def test_what_stands_on_every_pod_is_said_up_to_a_bound(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pods = (
        manifest(f"Pod demo/p-{number}", {"metadata": {"annotations": {"config.linkerd.io/proxy-uid": "1"}}})
        for number in range(MAX_SAID + 7)
    )
    (tmp_path / "a.yaml").write_text(text_of(pods))
    with caplog.at_level(logging.WARNING, "quietwire.catalog"):
        FilesSource(tmp_path, ignore).load()
    assert len(caplog.records) == MAX_SAID + 1
    assert "7 more such things" in caplog.records[-1].getMessage()
