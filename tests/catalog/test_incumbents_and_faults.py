"""A fault never takes anything away, and never opens anything: each of these did once."""

import asyncio
import json
import os
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.catalog.fronts import Front
from agent.catalog.index import CatalogIndex
from agent.catalog.snapshot import Catalog, CatalogChange
from agent.catalog.sources.files import directory, reading
from agent.catalog.sources.files.directory import FilesSource
from agent.catalog.sources.files.remembered import FilesMemory
from agent.manifests.document import Budget, ListType, documents
from agent.manifests.fault import Fault
from agent.manifests.parts import parts
from agent.objects.field import FaultError
from agent.objects.key import PodKey
from agent.objects.policy import DefaultPolicy
from agent.policy.index import PolicyIndex, PolicySettings
from agent.tasks import spawn

OPEN = PolicySettings("example.test", DefaultPolicy.ALL_UNAUTHENTICATED)
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: demo, labels: {app: NAME}}
spec: {nodeName: node-a, serviceAccountName: NAME}
status: {podIPs: [{ip: ADDRESS}]}
"""
SERVER = """\
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: NAME, namespace: demo}
spec: {podSelector: {matchLabels: {app: api}}, port: 80}
"""


def pod(name: str, address: str = "192.0.2.1") -> str:
    return POD.replace("NAME", name).replace("ADDRESS", address)


class Followed:
    """A directory of manifests, and what an agent would have in force."""

    def __init__(self, directory: Path, memory: Path | None = None) -> None:
        self.directory = directory
        self.faults: tuple[Fault, ...] = ()
        self.news = asyncio.Event()
        self.index = CatalogIndex(Catalog())
        self.policy = PolicyIndex(Catalog(), OPEN)
        self.memory = None if memory is None else FilesMemory(memory, directory)
        self.source = FilesSource(directory, self._changed, self.memory)

    def _changed(self, change: CatalogChange | None, faults: tuple[Fault, ...]) -> None:
        self.faults = faults
        if change is not None:
            self.index.apply(change)
            self.policy.apply(change)
        self.news.set()

    def put(self, name: str, text: str | bytes) -> "Followed":
        temporary = self.directory / f".{name}"
        temporary.write_bytes(textwrap.dedent(text).encode() if isinstance(text, str) else text)
        temporary.rename(self.directory / name)
        return self.load()

    def remove(self, name: str) -> None:
        (self.directory / name).unlink()
        self.load()

    def load(self) -> "Followed":
        self.source.load()
        return self

    @property
    def pods(self) -> list[str]:
        return sorted(each.key for each in self.index.pods())

    def decides(self, name: str = "demo/api", port: int = 80) -> str:
        found = self.index.pod(PodKey(name))
        assert found is not None
        return self.policy.permits(found, port).decided_by


@pytest.fixture
def here(tmp_path: Path) -> Followed:
    directory = tmp_path / "manifests"
    directory.mkdir()
    return Followed(directory)


def test_a_pod_keeps_its_address_against_a_manifest_that_sorts_first(here: Followed) -> None:
    here.put("m-api.yaml", pod("api"))
    here.put("a-copy.yaml", pod("copy"))
    assert here.pods == ["demo/api"]
    assert [(each.origin.file, each.object) for each in here.faults] == [("a-copy.yaml", "Pod demo/copy")]
    here.remove("m-api.yaml")
    assert here.pods == ["demo/copy"], "once its holder is gone the address is free"
    assert here.faults == ()


def test_an_object_stays_in_the_file_that_had_it_first(here: Followed) -> None:
    here.put("m.yaml", pod("api"))
    here.put("a.yaml", pod("api", "192.0.2.9"))
    assert [each.ips for each in here.index.pods()] == [("192.0.2.1",)]
    assert [each.origin.file for each in here.faults] == ["a.yaml"]


def test_a_pod_that_moves_to_a_taken_address_keeps_its_own_and_two_may_swap_theirs(here: Followed) -> None:
    here.put("a.yaml", pod("a", "192.0.2.1"))
    here.put("b.yaml", pod("b", "192.0.2.2"))
    here.put("a.yaml", pod("a", "192.0.2.2"))
    assert {each.key: each.ips for each in here.index.pods()} == {"demo/a": ("192.0.2.1",), "demo/b": ("192.0.2.2",)}
    (fault,) = here.faults
    assert fault.last_good
    here.put("b.yaml", pod("b", "192.0.2.1"))
    assert {each.key: each.ips for each in here.index.pods()} == {"demo/a": ("192.0.2.2",), "demo/b": ("192.0.2.1",)}
    assert here.faults == ()


def test_a_cluster_ip_belongs_to_one_service_and_to_no_pod(here: Followed) -> None:
    def service(name: str, address: str) -> str:
        return (
            f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
            f"spec: {{clusterIP: {address}, ports: [{{port: 80}}]}}\n"
        )

    here.put("m.yaml", service("one", "198.51.100.1"))
    here.put("p.yaml", pod("api"))
    here.put("a.yaml", service("two", "198.51.100.1"))
    here.put("b.yaml", service("three", "192.0.2.1"))
    found = here.index.service_at("198.51.100.1")
    assert found is not None
    assert found.name == "one"
    assert here.index.service_at("192.0.2.1") is None
    assert [each.origin.file for each in here.faults] == ["a.yaml", "b.yaml"]


@pytest.mark.parametrize(
    "broken",
    [
        pod("api").replace("kind: Pod", "kind: 7"),
        pod("api").replace("kind: Pod", "kind: [Pod]"),
        pod("api").replace("name: api", "name: API_1", 1),
        pod("api").replace("namespace: demo", "namespace: [demo]"),
        "kind: [",
        "\x00",
        "just text",
    ],
)
def test_a_document_that_is_about_nobody_knows_what_keeps_what_it_was(here: Followed, broken: str) -> None:
    whole = "---\n".join([pod("first", "192.0.2.5"), pod("api"), pod("last", "192.0.2.6")])
    here.put("all.yaml", whole)
    here.put("all.yaml", whole.replace(pod("api"), broken + "\n"))
    assert here.pods == ["demo/api", "demo/first", "demo/last"]
    assert here.faults
    assert any(each.last_good for each in here.faults)
    here.put("all.yaml", "---\n".join([pod("first", "192.0.2.5"), broken + "\n"]))
    assert "demo/last" not in here.pods, "what is deleted beside a fault is gone"


def test_a_server_that_is_renamed_to_no_name_stays_in_force(here: Followed) -> None:
    here.put("pod.yaml", pod("api"))
    here.put("server.yaml", SERVER.replace("NAME", "db-server"))
    here.put("server.yaml", SERVER.replace("NAME", "DB_server"))
    assert here.decides() == "Server demo/db-server"
    here.put("server.yaml", SERVER.replace("NAME", "other"))
    assert here.decides() == "Server demo/other"
    assert here.faults == ()


ODD = [
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo, annotations: {config.linkerd.io/opaque-ports: 1 2}}",
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo, annotations: {config.linkerd.io/opaque-ports: 9-2}}",
    "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: []}",
    "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIPs: [{}]}",
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {? !!int abc : x, y: !!int abc}",
    "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {hostNetwork: !!bool zzz}",
    "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {serviceAccountName: " + "a" * 2500 + "}",
    "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {x: !!timestamp never, y: !!python/object:os.system x}",
    "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: &a {x: *a}}",
    "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: " + "[" * 200_000,
    "- " * 40_000,
]


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_an_odd_manifest_is_a_fault_of_its_own_and_the_rest_is_followed_on(here: Followed, text: str) -> None:
    here.put("api.yaml", pod("api"))
    here.put("odd.yaml", text)
    assert len(here.faults) == 1
    here.put("more.yaml", pod("more", "192.0.2.2"))
    assert {"demo/api", "demo/more"} <= set(here.pods)


SCALARS = st.sampled_from(
    [
        *("~", "yes", "0x1F", "1_0", ".inf", "1e999", "9" * 5000, "2024-02-30", "2024-02-28T99:00:00Z"),
        *("!!int x", "!!bool 7", "!!binary é", "!x y", "!!set {}", "'a'", '"\\ud83d"', '"\\x00"'),
        *("*a", "&a", "&a b", "<<", "[", "{}", "[[]]", "|", "- x"),
    ]
)
FIELDS = [
    "kind",
    "apiVersion",
    "name",
    "namespace",
    "labels",
    "annotations",
    "podIP",
    "podIPs",
    "nodeName",
    "clusterIP",
]
PLACES = st.sampled_from(
    [*FIELDS, "ports", "port", "selector", "containers", "<<", "7", "? x", "config.linkerd.io/opaque-ports"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(
    st.sampled_from(["Pod", "Service", "Namespace", "EndpointSlice", "Server", "AuthorizationPolicy", "List"]),
    st.lists(st.tuples(st.sampled_from(["metadata", "spec", "status", "items", "x"]), PLACES, SCALARS), max_size=6),
)
def test_odd_scalars_in_any_place_never_end_the_following(
    here: Followed, kind: str, fields: list[tuple[str, str, str]]
) -> None:
    lines = [f"apiVersion: {'policy.linkerd.io/v1beta3' if kind == 'Server' else 'v1'}", f"kind: {kind}"]
    for section in dict.fromkeys(section for section, _, _ in fields):
        lines.append(f"{section}:")
        lines += [f"  {place}: {value}" for where, place, value in fields if where == section]
    here.put("z-api.yaml", pod("api"))
    here.put("odd.yaml", "\n".join(lines))
    assert "demo/api" in here.pods


@pytest.mark.parametrize("spec", ["{podSelector: 7, port: 80}", "{port: 80}", "7", "{podSelector: {}, port: http/1}"])
def test_a_server_of_which_nothing_can_be_read_closes_its_namespaces_defaults(here: Followed, spec: str) -> None:
    here.put("api.yaml", pod("api"))
    here.put("other.yaml", pod("other", "192.0.2.2").replace("namespace: demo", "namespace: elsewhere"))
    assert here.decides() == "default:all-unauthenticated"
    here.put("server.yaml", f"{SERVER.replace('NAME', 's').partition('spec:')[0]}spec: {spec}\n")
    (fault,) = here.faults
    assert fault.closed
    assert here.decides() == "Server demo/s"
    found = here.index.pod(PodKey("demo/api"))
    assert found is not None
    assert here.policy.permits(found, 80).authorizations == ()
    assert here.decides("elsewhere/other") == "default:all-unauthenticated"
    here.remove("server.yaml")
    assert here.decides() == "default:all-unauthenticated"


def test_at_the_first_start_an_unreadable_file_closes_every_default_and_later_it_does_not(here: Followed) -> None:
    (here.directory / "api.yaml").write_text(pod("api"))
    (here.directory / "policy.yaml").write_text("kind: [")
    here.load()
    assert "cannot be read" in here.decides()
    assert [each.closed for each in here.faults] == [True]
    here.put("policy.yaml", "kind: {")
    assert "cannot be read" in here.decides(), "edited, and still unreadable"
    here.put("policy.yaml", "# nothing\n")
    assert here.decides() == "default:all-unauthenticated"
    here.put("later.yaml", "kind: [")
    assert here.decides() == "default:all-unauthenticated", "a file that never was in force changes nothing"


def test_a_stand_in_is_never_taken_for_a_good_version(here: Followed) -> None:
    broken = pod("api").replace("labels:", "annotations: {quietwire.io/egress-mode: never}, labels:")
    here.put("api.yaml", broken)
    here.put("api.yaml", broken.replace("192.0.2.1", "192.0.2.2"))
    (fault,) = here.faults
    assert fault.closed
    assert not fault.last_good
    assert [each.ips for each in here.index.pods()] == [("192.0.2.2",)]


def test_a_file_that_is_being_written_keeps_what_it_said(here: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    here.put("api.yaml", pod("api"))
    with (here.directory / "api.yaml").open("w") as half:
        here.load()
        assert here.pods == ["demo/api"]
        assert not here.faults, "for a moment"
        monkeypatch.setattr(directory, "PATIENCE_SECONDS", 0)
        here.load()
        assert [(each.last_good, "open for writing" in each.reason) for each in here.faults] == [(True, True)]
        half.write(pod("api").replace("node-a", "node-b"))
    here.load()
    assert [each.node for each in here.index.pods()] == ["node-b"]
    assert here.faults == ()


def test_numbers_and_booleans_are_keys_as_in_kubernetes_and_merge_keys_are_merged() -> None:
    (found,) = documents(
        b"base: &base {a: 1, b: 2}\nuse: {<<: *base, b: 3}\n9000: x\ntrue: y\nlist: {<<: [*base, {c: 4}]}"
    )
    assert sorted(found.mapping()) == ["9000", "base", "list", "true", "use"]
    assert {key: field.value for key, field in found.get("use").mapping().items()} == {"a": 1, "b": 3}
    assert {key: field.value for key, field in found.get("list").mapping().items()} == {"a": 1, "b": 2, "c": 4}


def test_json_with_escaped_surrogate_pairs_is_read() -> None:
    (found,) = documents(json.dumps({"kind": "Pod", "note": "\U0001f600"}).encode())
    assert found.get("note").text() == "\U0001f600"


@pytest.mark.parametrize("version", ["policy.linkerd.io", "", "v1"])
def test_a_policy_without_its_group_is_a_fault_and_never_nothing(here: Followed, version: str) -> None:
    here.put("s.yaml", SERVER.replace("NAME", "s").replace("policy.linkerd.io/v1beta3", version or "''"))
    (fault,) = here.faults
    assert "apiVersion" in fault.reason


def test_another_groups_kinds_of_the_same_name_are_other_things(here: Followed) -> None:
    here.put("real.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 198.51.100.1}\n")
    here.put("other.yaml", "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: s}\nspec: {x: 1}\n")
    here.put("third.yaml", SERVER.replace("NAME", "s").replace("policy.linkerd.io/v1beta3", "games.example/v1"))
    assert here.faults == ()
    found = here.index.service_at("198.51.100.1")
    assert found is not None


def test_what_is_no_file_and_what_has_no_utf8_name_are_no_end_of_anything(here: Followed) -> None:
    os.mkfifo(here.directory / "pipe.yaml")
    Path(os.fsdecode(os.fsencode(here.directory) + b"/\xff.yaml")).write_text("kind: [")
    here.put("api.yaml", pod("api"))
    assert here.pods == ["demo/api"]
    assert [(each.origin.file, each.reason) for each in here.faults if "regular" in each.reason] == [
        ("pipe.yaml", "is no regular file")
    ]
    assert json.dumps([each.origin.file for each in here.faults])


def save(followed: Followed) -> Followed:
    assert followed.memory is not None
    if followed.source._to_remember.is_set():
        followed.memory.save(followed.source._standings.known)
    return followed


def remembering(directory: Path, memory: Path) -> Followed:
    return save(Followed(directory, memory).load())


def test_an_object_that_moved_to_another_file_is_remembered_there(here: Followed, tmp_path: Path) -> None:
    (here.directory / "pod.yaml").write_text(pod("api"))
    (here.directory / "a.yaml").write_text(SERVER.replace("NAME", "s"))
    remembering(here.directory, tmp_path / "memory")
    (here.directory / "a.yaml").rename(here.directory / "b.yaml")
    remembering(here.directory, tmp_path / "memory")
    (here.directory / "b.yaml").write_text("kind: [")
    assert remembering(here.directory, tmp_path / "memory").decides() == "Server demo/s"


def yaml_list(items: list[str], indent: int = 0) -> str:
    inner = [textwrap.indent(item, " " * (indent + 2))[indent + 2 :] for item in items]
    return (
        "apiVersion: v1\nitems:\n" + "".join(f"{' ' * indent}- {item}" for item in inner) + "kind: List\nmetadata: {}\n"
    )


def json_list(items: list[str]) -> str:
    listed = [json.loads(json.dumps(_plain(item))) for item in items]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": listed}, indent=4)


def _plain(text: str) -> object:
    return yaml.safe_load(text)


def test_two_services_at_one_external_address_are_a_fault_for_as_long_as_both_are_there(here: Followed) -> None:
    for name, age in (("young", "2026-01-01T00:00:00Z"), ("old", "2025-01-01T00:00:00Z")):
        metadata = {"name": name, "namespace": "demo", "creationTimestamp": age}
        spec = {"ports": [{"port": 80}], "externalIPs": ["203.0.113.9"]}
        here.put(f"{name}.json", json.dumps({"kind": "Service", "metadata": metadata, "spec": spec}))
    (fault,) = here.faults
    assert (fault.origin.file, fault.origin.line, fault.object) == ("young.json", 1, "Service demo/young")
    assert "203.0.113.9, port 80, is Service demo/old's, which is older" in fault.reason
    (here.directory / "old.json").unlink()
    here.load()
    assert here.faults == ()
    found = here.index.outside("203.0.113.9", 80)
    assert isinstance(found, Front)
    assert found.service == "demo/young"


def test_a_service_whose_cluster_ip_is_anothers_is_closed_until_that_one_goes(here: Followed) -> None:
    def service(name: str, **spec: object) -> str:
        spec = {"clusterIP": "198.51.100.1", "ports": [{"port": 80}], "selector": {"app": "api"}, **spec}
        return json.dumps({"kind": "Service", "metadata": {"name": name, "namespace": "demo"}, "spec": spec})

    here.put("api.yaml", pod("api"))
    here.put("first.json", service("first"))
    for port in (80, 81):  # twice, so that the second time it is known already
        here.put("second.json", service("second", externalIPs=["203.0.113.9"], ports=[{"port": port}]))
        (fault,) = here.faults
        assert fault.closed
        closed = here.index.outside("203.0.113.9", port)
        assert isinstance(closed, Front)
        assert (closed.service, closed.endpoints) == ("demo/second", ())
    (here.directory / "first.json").unlink()
    here.load()
    assert here.faults == ()
    found = here.index.outside("203.0.113.9", 81)
    assert isinstance(found, Front)
    assert [each.address for each in found.endpoints] == ["192.0.2.1"]


@pytest.mark.parametrize(
    "listed", [yaml_list, lambda items: yaml_list(items, 2), json_list], ids=["yaml", "indented", "json"]
)
def test_one_changed_item_of_a_list_is_the_only_one_that_is_parsed(
    here: Followed, listed: Callable[[list[str]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [pod(f"p{number}", f"192.0.2.{number}") for number in range(1, 60)]
    here.put("all.yaml", listed(items))
    assert len(here.pods) == 59
    parsed: list[bytes] = []
    decoded = reading._decoded

    def counting(data: bytes, budget: Budget, of_list: ListType) -> object:
        parsed.append(data)
        return decoded(data, budget, of_list)

    monkeypatch.setattr(reading, "_decoded", counting)
    items[30] = items[30].replace("node-a", "node-b")
    here.put("all.yaml", listed(items))
    assert len(parsed) == 1
    assert [each.name for each in here.index.pods() if each.node == "node-b"] == ["p31"]
    items[7] = items[7].replace("kind: Pod", "kind: 7")
    here.put("all.yaml", listed(items))
    (fault,) = here.faults
    assert fault.last_good
    assert "p8" in [each.name for each in here.index.pods()]
    text = listed(items).splitlines()
    assert "7" in text[fault.origin.line - 1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([pod("a"), SERVER.replace("NAME", "s"), "x: |\n  - a\n  # b\n  -c\n"]), max_size=5))
def test_the_items_of_a_list_are_the_same_however_they_are_found(items: list[str]) -> None:
    text = yaml_list(items).encode() if items else b"kind: List\nitems: []\n"
    (part,) = parts(text)
    assert len(part.items) == len(items)
    apart = [each for _, item in part.items for each in documents(item)]
    whole = documents(text)
    if items:
        assert [_values(each) for each in apart] == [_values(each) for each in whole]


def _values(field: object) -> object:
    value = getattr(field, "value", None)
    if isinstance(value, dict):
        return {key: _values(each) for key, each in value.items()}
    return [_values(each) for each in value] if isinstance(value, list) else value


def test_one_changed_pod_joins_only_the_services_that_select_it(here: Followed) -> None:
    services = "---\n".join(
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: s{number}, namespace: demo}}\n"
        f"spec: {{clusterIP: 198.51.100.{number}, selector: {{app: p{number}}}, ports: [{{port: 80}}]}}\n"
        for number in range(1, 100)
    )
    here.put("services.yaml", services)
    for number in (1, 2, 3):
        here.put(f"p{number}.yaml", pod(f"p{number}", f"192.0.2.{number}"))
    before = here.source._assembly.joined
    here.put("p2.yaml", pod("p2", "192.0.2.20"))
    assert here.source._assembly.joined == before + 1
    port = here.index.front_at("198.51.100.2", 80)
    assert port is not None
    assert [each.address for each in port.endpoints] == ["192.0.2.20"]
    here.put("p2.yaml", pod("p2", "192.0.2.20").replace("app: p2", "app: p3"))
    assert here.source._assembly.joined == before + 3, "the one that it leaves and the one that it joins"
    ports = [here.index.front_at(f"198.51.100.{number}", 80) for number in (2, 3)]
    assert [{each.address for each in found.endpoints} for found in ports if found is not None] == [
        set(),
        {"192.0.2.20", "192.0.2.3"},
    ]


def test_deep_nesting_is_refused_before_anything_recurses() -> None:
    for text in (b"[" * 100_000, b"{a: " * 100_000, b"- " * 100_000):
        with pytest.raises(FaultError, match=r"too deeply|too many"):
            documents(text)


async def test_a_burst_of_changes_is_followed_to_its_end(here: Followed) -> None:
    task = spawn(here.load().source.run(), name="the one under test")
    async with asyncio.timeout(10):
        for number in range(40):
            (here.directory / "api.yaml").write_text(pod("api").replace("node-a", f"node-{number}"))
            await asyncio.sleep(0)
        while [each.node for each in here.index.pods()] != ["node-39"]:
            here.news.clear()
            await here.news.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
