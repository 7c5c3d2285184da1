"""Manifests as people have them; faults with file and line; what was last good; changes as they come."""

import asyncio
import json
import os
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.catalog.index import CatalogIndex
from agent.catalog.snapshot import Catalog, CatalogChange
from agent.catalog.sources.files.directory import FilesSource
from agent.manifests.document import documents
from agent.manifests.fault import Fault
from agent.objects.field import FaultError
from agent.objects.model import Endpoint, Pod, PortRange
from agent.tasks import spawn

POD = """\
    apiVersion: v1
    kind: Pod
    metadata:
      name: web
      namespace: demo
      annotations:
        quietwire.io/netns: web
    spec:
      nodeName: node-a
      serviceAccountName: web
    status:
      podIPs:
      - ip: 192.0.2.1
      - ip: 2001:DB8::1
    """


class Source:
    """A directory and what is made of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.index = CatalogIndex(Catalog())
        self.faults: tuple[Fault, ...] = ()
        self.changes = 0
        self.changed = asyncio.Event()
        self.source = FilesSource(directory, self._on_change)

    def _on_change(self, change: CatalogChange | None, faults: tuple[Fault, ...]) -> None:
        self.faults = faults
        if change is not None:
            self.index.apply(change)
        self.changes += 1
        self.changed.set()

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(textwrap.dedent(text))

    def load(self) -> "Source":
        self.source.load()
        return self

    @property
    def catalog(self) -> Catalog:
        return self.index.catalog

    @property
    def pods(self) -> list[str]:
        return [pod.key for pod in self.catalog.pods]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def only(source: Source) -> Pod:
    (pod,) = source.catalog.pods
    return pod


def test_a_pod_is_read_and_its_addresses_are_canonical(source: Source) -> None:
    source.write("a.yaml", POD)
    pod = only(source.load())
    assert (pod.key, pod.service_account, pod.node, pod.netns) == ("demo/web", "web", "node-a", "web")
    assert pod.ips == ("192.0.2.1", "2001:db8::1")
    assert pod.settings.injected
    assert source.faults == ()


def test_json_lists_and_many_documents_are_read(source: Source) -> None:
    source.write("a.json", json.dumps({"kind": "List", "items": [{"kind": "Pod", "metadata": {"name": "one"}}]}))
    source.write(
        "b.yml",
        "kind: Pod\nmetadata: {name: two}\n---\n---\nkind: PodList\nitems:\n- {kind: Pod, metadata: {name: three}}\n",
    )
    source.write(".hidden.yaml", POD)
    source.write("notes.txt", "not a manifest")
    assert source.load().pods == ["default/one", "default/two", "default/three"]
    assert source.faults == ()


def test_annotations_of_the_namespace_are_inherited_one_by_one(source: Source) -> None:
    source.write(
        "ns.yaml",
        """\
        kind: Namespace
        metadata:
          name: demo
          annotations:
            config.linkerd.io/default-inbound-policy: deny
            config.linkerd.io/skip-inbound-ports: "22, 8000-8100"
            quietwire.io/egress-mode: meshed-only
        """,
    )
    source.write("pod.yaml", POD.replace("quietwire.io/netns: web", "config.linkerd.io/default-inbound-policy: audit"))
    found = only(source.load()).settings
    assert (found.default_policy, found.egress_mode) == ("audit", "meshed-only")
    assert found.skip_inbound_ports == (PortRange(22, 22), PortRange(8000, 8100))


@pytest.mark.parametrize("how", ["linkerd.io/inject: disabled", "host"])
def test_pods_that_are_not_meshed(source: Source, how: str) -> None:
    text = (
        POD.replace("quietwire.io/netns: web", how)
        if how != "host"
        else POD.replace("nodeName", "hostNetwork: true\n      nodeName")
    )
    source.write("a.yaml", text)
    assert not only(source.load()).settings.injected


def test_pods_that_have_finished_are_not_there(source: Source) -> None:
    source.write("a.yaml", "kind: Pod\nmetadata: {name: done}\nstatus: {phase: Succeeded}\n")
    assert source.load().pods == []


SERVICE = """\
    kind: Service
    metadata: {name: api, namespace: demo}
    spec:
      clusterIPs: [198.51.100.1, "2001:db8:5::1"]
      selector: {app: api}
      ports:
      - {name: http, port: 80, targetPort: web}
      - {name: dns, port: 53, protocol: UDP}
    """
BACKENDS = """\
    kind: Pod
    metadata: {name: one, namespace: demo, labels: {app: api}}
    spec: {containers: [{name: c, ports: [{name: web, containerPort: 8080}]}]}
    status: {podIPs: [{ip: 192.0.2.1}, {ip: "2001:db8::1"}]}
    ---
    kind: Pod
    metadata: {name: two, namespace: demo, labels: {app: api}}
    spec: {containers: [{name: c, ports: [{name: web, containerPort: 9090}]}]}
    status: {podIP: 192.0.2.2, conditions: [{type: Ready, status: "False"}]}
    ---
    kind: Pod
    metadata: {name: three, namespace: other, labels: {app: api}}
    status: {podIP: 192.0.2.3}
    """


def test_a_selector_finds_the_ready_pods_of_its_namespace_in_the_family_that_was_dialled(source: Source) -> None:
    source.write("a.yaml", SERVICE)
    source.write("b.yaml", BACKENDS)
    index = CatalogIndex(source.load().catalog)
    four, six = index.front_at("198.51.100.1", 80), index.front_at("2001:db8:5::1", 80)
    assert four is not None
    assert six is not None
    assert (four.endpoints, six.endpoints) == ((Endpoint("192.0.2.1", 8080),), (Endpoint("2001:db8::1", 8080),))
    assert index.front_at("198.51.100.1", 53) is None
    assert index.service_at("198.51.100.1") is not None


def test_endpoint_slices_go_before_the_selector(source: Source) -> None:
    source.write("a.yaml", SERVICE)
    source.write("b.yaml", BACKENDS)
    source.write(
        "c.yaml",
        """\
        kind: EndpointSlice
        metadata: {name: api-1, namespace: demo, labels: {kubernetes.io/service-name: api}}
        addressType: IPv4
        ports: [{name: http, port: 7000}, {name: metrics, port: 1}]
        endpoints:
        - {addresses: [192.0.2.9]}
        - {addresses: [192.0.2.10], conditions: {ready: false}}
        - {addresses: [192.0.2.11], conditions: {ready: true, terminating: true}}
        """,
    )
    port = CatalogIndex(source.load().catalog).front_at("198.51.100.1", 80)
    assert port is not None
    assert port.endpoints == (Endpoint("192.0.2.9", 7000),)


FAULTS = [
    ("kind: Pod\nmetadata:\n  name: [a\n", 4, "no valid YAML"),
    ("kind: Pod\nmetadata:\n  name: Upper\n", 3, "'Upper' is no DNS name"),
    ("kind: Pod\nmetadata:\n  name: a\n  namespace: a.b\n", 4, "'a.b' is no DNS label"),
    ("metadata: {name: a}\n", 1, "no kind"),
    ("- 1\n- 2\n", 1, "mapping"),
    ("kind: Pod\nkind: Pod\n", 2, "comes twice"),
    ("kind: Pod\nmetadata: {name: a}\nstatus:\n  podIPs:\n  - ip: 300.1.1.1\n", 5, "'300.1.1.1' is no IP address"),
    (
        "kind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - ports:\n    - containerPort: 99999\n",
        6,
        "port number",
    ),
    ("kind: Pod\nmetadata: {name: a}\nspec:\n  hostNetwork: maybe\n", 4, "true or false"),
    ("kind: Pod\nmetadata: {name: a}\nspec:\n  serviceAccountName: a/b\n", 4, "serviceAccountName"),
    (
        "kind: Pod\nmetadata:\n  name: a\n  annotations:\n    config.linkerd.io/default-inbound-policy: open\n",
        5,
        "must be one of",
    ),
    (
        "kind: Pod\nmetadata:\n  name: a\n  annotations:\n    config.linkerd.io/skip-inbound-ports: 1-x\n",
        5,
        "'1-x' is no port",
    ),
    (
        "kind: Pod\nmetadata:\n  name: a\n  annotations:\n    config.linkerd.io/skip-inbound-ports: 9-2\n",
        5,
        "ends before it begins",
    ),
    (
        "kind: Pod\nmetadata:\n  name: a\n  annotations:\n    config.linkerd.io/skip-subnets: 10.0.0.1/99\n",
        5,
        "no address and no network",
    ),
    ("kind: Pod\nmetadata:\n  name: a\n  annotations:\n    quietwire.io/egress-mode: never\n", 5, "must be one of"),
    ("kind: Pod\nmetadata:\n  name: a\n  labels:\n    x: 7\n", 5, "a string is expected"),
    ("kind: Namespace\nmetadata:\n  name: a\n  annotations:\n    linkerd.io/inject: perhaps\n", 5, "must be one of"),
    ("kind: EndpointSlice\nmetadata:\n  name: a\n", 3, "kubernetes.io/service-name is missing"),
    ("apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {name: a}\n", 1, "spec is missing"),
    ("kind: Pod\nmetadata: {name: a}\n---\nkind: Pod\nmetadata: {name: a}\n", 4, "comes twice"),
]


@pytest.mark.parametrize(("text", "line", "words"), FAULTS)
def test_each_fault_has_its_file_its_line_and_its_reason_and_the_rest_is_loaded(
    source: Source, text: str, line: int, words: str
) -> None:
    source.write("bad.yaml", text)
    source.write("good.yaml", POD)
    source.load()
    (fault,) = source.faults
    assert (fault.origin.file, fault.origin.line) == ("bad.yaml", line), str(fault)
    assert words in fault.reason
    assert str(fault).startswith(f"bad.yaml:{line}: ")
    assert "demo/web" in source.pods


def test_the_last_good_version_of_a_file_and_of_one_object_stays(source: Source) -> None:
    source.write(
        "a.yaml",
        "kind: Pod\nmetadata: {name: one}\nstatus: {podIP: 192.0.2.1}\n---\nkind: Pod\nmetadata: {name: two}\n",
    )
    source.load()
    before = source.catalog
    source.write(
        "a.yaml", "kind: Pod\nmetadata: {name: one}\nstatus: {podIP: nonsense}\n---\nkind: Pod\nmetadata: {name: two}\n"
    )
    source.load()
    assert [fault.last_good for fault in source.faults] == [True]
    assert source.catalog == before
    source.write("a.yaml", "kind: [")
    source.load()
    assert [fault.last_good for fault in source.faults] == [True]
    assert source.catalog == before
    (source.directory / "a.yaml").unlink()
    source.load()
    assert source.pods == []
    assert source.faults == ()


def test_an_object_and_an_address_belong_to_one(source: Source) -> None:
    source.write("a.yaml", POD)
    source.write("b.yaml", POD)
    source.write("c.yaml", POD.replace("name: web", "name: thief", 1))
    source.load()
    assert source.pods == ["demo/web"]
    assert [(fault.origin.file, fault.object) for fault in source.faults] == [
        ("b.yaml", "Pod demo/web"),
        ("c.yaml", "Pod demo/thief"),
    ]
    assert "192.0.2.1 is Pod demo/web's already" in source.faults[1].reason


def test_a_version_grows_only_with_a_change(source: Source) -> None:
    source.write("a.yaml", POD)
    version = source.load().catalog.version
    source.write("a.yaml", POD + "# a comment\n")
    assert source.load().catalog.version == version
    source.write("a.yaml", POD.replace("node-a", "node-b"))
    assert source.load().catalog.version == version + 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_arbitrary_bytes_are_a_fault_or_nothing_but_never_a_crash(source: Source, data: bytes) -> None:
    (source.directory / "x.yaml").write_bytes(data)
    source.load()
    assert source.pods == []


NAMES = [
    "name", "ip", "ports", "port", "annotations", "labels", "x", "addresses", "conditions", "hints", "forZones", "type",
    "loadBalancer", "ingress", "externalIPs", "sessionAffinityConfig", "clientIP", "nodePort", "hostPort", "containers",
]  # fmt: skip
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    st.sampled_from(
        ["Pod", "Namespace", "Node", "Service", "EndpointSlice", "Endpoints", "List", "PodList", "Deployment"]
    ),
    st.dictionaries(
        st.sampled_from(["metadata", "spec", "status", "items", "endpoints", "ports", "addressType", "subsets"]),
        VALUES,
        max_size=4,
    ),
)
def test_arbitrary_shapes_are_a_fault_or_an_object_but_never_a_crash(
    source: Source, kind: str, body: dict[str, object]
) -> None:
    named = {"name": "a", "labels": {"kubernetes.io/service-name": "a"}}
    source.write("x.json", json.dumps({"kind": kind, "metadata": named, **body}))
    source.load()
    assert not [fault for fault in source.faults if "a fault of the agent" in fault.reason]


def test_an_alias_bomb_is_refused() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
    )
    with pytest.raises(FaultError, match="too many"):
        documents(bomb.encode())


@pytest.fixture
async def followed(source: Source) -> AsyncIterator[Source]:
    source.load()
    task = spawn(source.source.run(), name="the one under test")
    yield source
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def until(source: Source, pods: list[str]) -> None:
    async with asyncio.timeout(10):
        while source.pods != pods:
            source.changed.clear()
            await source.changed.wait()


async def test_files_that_come_change_and_go_are_followed(followed: Source) -> None:
    followed.write("a.yaml", POD)
    await until(followed, ["demo/web"])
    followed.write("new.tmp", POD.replace("name: web", "name: renamed", 1))
    os.rename(followed.directory / "new.tmp", followed.directory / "a.yaml")
    await until(followed, ["demo/renamed"])
    (followed.directory / "a.yaml").unlink()
    await until(followed, [])


async def test_kubernetes_swap_of_its_data_link_is_followed(source: Source) -> None:
    for number in (1, 2):
        (source.directory / f"..{number}").mkdir()
        source.write(f"..{number}/a.yaml", POD.replace("name: web", f"name: web{number}", 1))
    (source.directory / "..data").symlink_to("..1")
    (source.directory / "a.yaml").symlink_to("..data/a.yaml")
    source.load()
    assert source.pods == ["demo/web1"]
    task = spawn(source.source.run(), name="the one under test")
    (source.directory / "..tmp").symlink_to("..2")
    os.rename(source.directory / "..tmp", source.directory / "..data")
    await until(source, ["demo/web2"])
    task.cancel()


async def test_a_directory_that_goes_and_comes_back_is_found_again(source: Source, tmp_path: Path) -> None:
    inner = Source(tmp_path / "inner")
    inner.directory.mkdir()
    inner.write("a.yaml", POD)
    inner.load()
    task = spawn(inner.source.run(), name="the one under test")
    os.rename(inner.directory, tmp_path / "away")
    async with asyncio.timeout(10):
        while not inner.faults:
            inner.changed.clear()
            await inner.changed.wait()
    assert inner.pods == ["demo/web"], "the last good state stays"
    inner.directory.mkdir()
    inner.write("b.yaml", POD.replace("name: web", "name: back", 1))
    await until(inner, ["demo/back"])
    task.cancel()
