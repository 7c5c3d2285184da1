"""What is in force stays in force: through faults that come together, moves between files, and restarts."""

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.catalog import join
from agent.catalog.sources.files import reading
from agent.manifests import document
from agent.objects import annotations
from agent.objects.decode import decode
from agent.objects.field import Field
from agent.objects.key import ObjectKey, PodKey
from agent.objects.model import ContainerPort, MeshSettings, Pod
from agent.tasks import spawn
from tests.catalog.test_incumbents_and_faults import SERVER, Followed, pod, remembering, save

BROKEN = "kind: ["


@pytest.fixture
def here(tmp_path: Path) -> Followed:
    directory = tmp_path / "manifests"
    directory.mkdir()
    return Followed(directory)


def write(here: Followed, name: str, text: str) -> None:
    """Writes without a look at it: what comes next is seen at once with it."""
    (here.directory / name).write_text(text)


def together(*documents: str) -> str:
    return "---\n".join(documents)


def addresses(here: Followed) -> dict[str, tuple[str, ...]]:
    return {each.key: each.ips for each in here.index.pods()}


def of(index: Followed, name: str) -> Pod:
    found = index.index.pod(PodKey(name))
    assert found is not None
    return found


# -- who has a name or an address --


def test_after_a_restart_the_newcomer_is_still_the_newcomer(here: Followed, tmp_path: Path) -> None:
    write(here, "m-api.yaml", pod("api"))
    remembering(here.directory, tmp_path / "memory")
    write(here, "a-copy.yaml", pod("copy"))
    write(here, "b-api.yaml", pod("api", "192.0.2.7"))
    restarted = remembering(here.directory, tmp_path / "memory")
    assert addresses(restarted) == {"demo/api": ("192.0.2.1",)}
    again = remembering(here.directory, tmp_path / "memory")
    assert addresses(again) == {"demo/api": ("192.0.2.1",)}
    assert [each.origin.file for each in again.faults] == ["a-copy.yaml", "b-api.yaml"]


def test_a_document_before_it_in_the_same_file_does_not_take_an_objects_name(here: Followed) -> None:
    here.put("all.yaml", pod("api"))
    here.put("all.yaml", together(pod("api", "192.0.2.9"), pod("api")))
    assert addresses(here) == {"demo/api": ("192.0.2.1",)}
    (fault,) = here.faults
    assert fault.origin.line == 1


def test_a_pod_whose_new_address_is_refused_keeps_its_old_one_against_who_wants_it(here: Followed) -> None:
    here.put("all.yaml", together(pod("api"), pod("other", "192.0.2.2")))
    here.put("all.yaml", together(pod("a-thief"), pod("api", "192.0.2.2"), pod("other", "192.0.2.2")))
    assert addresses(here) == {"demo/api": ("192.0.2.1",), "demo/other": ("192.0.2.2",)}
    assert [(each.object, each.last_good) for each in here.faults] == [
        ("Pod demo/a-thief", False),
        ("Pod demo/api", True),
    ]


def test_addresses_may_go_round_among_three(here: Followed) -> None:
    here.put("all.yaml", together(*(pod(name, f"192.0.2.{at}") for at, name in enumerate("abc", 1))))
    here.put("all.yaml", together(*(pod(name, f"192.0.2.{at}") for at, name in enumerate("bca", 1))))
    assert addresses(here) == {"demo/b": ("192.0.2.1",), "demo/c": ("192.0.2.2",), "demo/a": ("192.0.2.3",)}
    assert here.faults == ()


# -- what is about nobody knows what --


def test_of_two_that_broke_together_the_one_that_is_not_mended_yet_stays(here: Followed) -> None:
    one, two = pod("one", "192.0.2.1"), pod("two", "192.0.2.2")
    here.put("all.yaml", together(one, two))
    here.put("all.yaml", together(one.replace("kind: Pod", "kind: 1"), two.replace("kind: Pod", "kind: 2")))
    assert here.pods == ["demo/one", "demo/two"]
    here.put("all.yaml", together(one, two.replace("kind: Pod", "kind: 2")))
    assert here.pods == ["demo/one", "demo/two"]
    here.put("all.yaml", together(one, two.replace("kind: Pod", "kind: 3")))
    assert here.pods == ["demo/one", "demo/two"], "edited, and still not mended"
    here.put("all.yaml", one)
    assert here.pods == ["demo/one"]


@pytest.mark.parametrize("broken", [BROKEN, pod("api").replace("kind: Pod", "kind: 7"), pod("api", "nonsense")])
def test_a_file_that_gets_another_name_and_a_fault_at_once_takes_nothing_away(here: Followed, broken: str) -> None:
    here.put("old.yaml", pod("api"))
    (here.directory / "old.yaml").unlink()
    here.put("new.yaml", broken)
    assert addresses(here) == {"demo/api": ("192.0.2.1",)}
    assert [each.last_good for each in here.faults] == [True]
    here.remove("new.yaml")
    assert here.pods == []


def test_an_object_that_moves_to_another_file_with_a_fault_keeps_its_last_good_version(here: Followed) -> None:
    here.put("one.yaml", together(pod("api"), pod("x", "192.0.2.5")))
    here.put("two.yaml", pod("y", "192.0.2.6"))
    write(here, "one.yaml", pod("x", "192.0.2.5"))
    here.put("two.yaml", together(pod("y", "192.0.2.6"), pod("api", "nonsense")))
    assert addresses(here)["demo/api"] == ("192.0.2.1",)


def test_what_is_deleted_while_another_document_stays_broken_is_gone(here: Followed) -> None:
    bad = pod("bad", "192.0.2.9").replace("kind: Pod", "kind: 7")
    here.put("all.yaml", together(pod("a", "192.0.2.1"), bad, pod("b", "192.0.2.2")))
    here.put("all.yaml", together(bad, pod("b", "192.0.2.2")))
    assert here.pods == ["demo/b"]
    here.put("all.yaml", together(pod("b", "192.0.2.2"), bad))
    assert here.pods == ["demo/b"]
    here.put("all.yaml", bad)
    assert here.pods == []


# -- what stands in --

HALF = pod("api").replace("labels:", "annotations: {quietwire.io/egress-mode: never}, labels:")


@pytest.mark.parametrize("worse", [HALF.replace("192.0.2.1", "nowhere"), HALF.replace("kind: Pod", "kind: 7"), BROKEN])
def test_a_pod_that_something_stands_in_for_is_not_let_go_when_its_manifest_gets_worse(
    here: Followed, worse: str
) -> None:
    here.put("api.yaml", HALF)
    assert here.faults[0].closed
    here.put("api.yaml", worse)
    assert here.pods == ["demo/api"]
    assert of(here, "demo/api").settings.default_policy == "deny"


@pytest.mark.parametrize(
    ("sound", "odd"),
    [
        ("labels: {app: api}", "labels: {app: 7}"),
        ("labels: {app: api}", "labels: [app]"),
        ("labels: {app: api}", "annotations: {x: 7}"),
        ("nodeName: node-a", "nodeName: node-a, containers: [{ports: [{containerPort: 99999}]}]"),
        ("nodeName: node-a", "nodeName: node-a, containers: 7"),
        ("status: {", "status: {conditions: [7], "),
    ],
)
def test_a_pod_that_was_never_good_is_closed_where_one_can_tell_which_it_is(
    here: Followed, sound: str, odd: str
) -> None:
    here.put("api.yaml", pod("api").replace(sound, odd))
    (fault,) = here.faults
    assert fault.closed
    found = of(here, "demo/api")
    assert (found.ips, found.node, found.service_account) == (("192.0.2.1",), "node-a", "api")
    assert found.settings.injected
    assert here.policy.permits(found, 80).authorizations == ()


@pytest.mark.parametrize("how", ["linkerd.io/inject: disabled", "host"])
def test_what_is_not_meshed_is_not_meshed_by_a_fault(here: Followed, how: str) -> None:
    text = pod("api").replace("labels: {app: api}", f"labels: {{app: 7}}, annotations: {{{how}}}")
    if how == "host":
        text = (
            pod("api")
            .replace("labels: {app: api}", "labels: {app: 7}")
            .replace("nodeName", "hostNetwork: true, nodeName")
        )
    here.put("api.yaml", text)
    assert not of(here, "demo/api").settings.injected


def test_a_service_that_was_never_good_is_refused_and_not_passed_by(here: Followed) -> None:
    here.put(
        "s.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 198.51.100.1, ports: 7}\n"
    )
    assert [each.closed for each in here.faults] == [True]
    assert here.index.service_at("198.51.100.1") is not None
    assert here.index.front_at("198.51.100.1", 80) is None


def test_a_broken_server_is_as_old_and_as_labelled_as_it_says(here: Followed) -> None:
    here.put("api.yaml", pod("api"))
    other = SERVER.replace("NAME", "open").replace("port: 80", "port: 80, accessPolicy: all-unauthenticated")
    here.put("open.yaml", other.replace("name: open", "name: open, creationTimestamp: '2024-06-01T00:00:00Z'"))
    old = SERVER.replace("NAME", "z").replace("port: 80", "port: 80, accessPolicy: dney")
    here.put("old.yaml", old.replace("name: z", "name: z, creationTimestamp: '2024-01-01T00:00:00Z'"))
    assert here.decides() == "Server demo/z", "the older one decides, as it would if it were mended"
    here.put("old.yaml", old.replace("name: z", "name: z, creationTimestamp: never"))
    found = here.policy.permits(of(here, "demo/api"), 80)
    assert found.authorizations == (), "it may be older than the other"


# -- the first start --


def closed(here: Followed) -> bool:
    return here.policy.permits(of(here, "demo/api"), 80).authorizations == ()


def first_start(here: Followed, text: str = BROKEN) -> None:
    write(here, "api.yaml", pod("api"))
    write(here, "policy.yaml", text)
    here.load()


def test_what_the_first_start_closed_stays_closed_over_a_restart_and_until_it_is_mended(
    here: Followed, tmp_path: Path
) -> None:
    write(here, "api.yaml", pod("api"))
    write(here, "policy.yaml", BROKEN)
    assert closed(remembering(here.directory, tmp_path / "memory"))
    restarted = remembering(here.directory, tmp_path / "memory")
    assert closed(restarted)
    restarted.put("policy.yaml", together("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n", BROKEN))
    assert closed(restarted), "what came before it is no reason to open"
    (here.directory / "policy.yaml").rename(here.directory / "renamed.yaml")
    assert closed(restarted.load())
    restarted.put("renamed.yaml", "# mended\n")
    assert not closed(restarted)
    assert not closed(remembering(here.directory, tmp_path / "memory"))


def test_a_file_that_is_too_large_at_the_first_start_closes_as_well(
    here: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here, "api.yaml", pod("api"))
    with (here.directory / "policy.yaml").open("wb") as file:
        file.truncate(document.MAX_FILE + 1)
    here.load()
    assert closed(here)
    here.remove("policy.yaml")
    assert not closed(here)


def test_a_file_that_is_being_written_at_the_first_start_closes_until_it_is_there(here: Followed) -> None:
    write(here, "api.yaml", pod("api"))
    with (here.directory / "policy.yaml").open("w") as half:
        here.load()
        assert closed(here)
        half.write("# nothing\n")
    assert not closed(here.load())


@pytest.mark.parametrize(
    "text",
    [
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: 'system:node'}\n",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {generateName: x-}\n",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: 7\n",
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [a]\n",
    ],
)
def test_kinds_that_mean_nothing_to_a_mesh_are_no_fault_and_close_nothing(here: Followed, text: str) -> None:
    first_start(here, text)
    assert here.faults == ()
    assert not closed(here)


@pytest.mark.parametrize("name", ["API_1", "''", "[a]"])
def test_a_policy_that_only_opens_closes_nothing_by_having_no_name(here: Followed, name: str) -> None:
    text = (
        SERVER.replace("NAME", name)
        .replace("kind: Server", "kind: MeshTLSAuthentication")
        .replace("v1beta3", "v1alpha1")
    )
    first_start(here, text)
    assert len(here.faults) == 1
    assert not closed(here)


@pytest.mark.parametrize(
    "version", ["policy.linkerd.oi/v1beta3", "linkerd.io/v1beta3", "v1beta3", "[policy.linkerd.io/v1beta3]", "7", "~"]
)
def test_a_server_with_a_misspelt_api_version_is_a_fault_with_a_name_and_closes_its_port(
    here: Followed, version: str
) -> None:
    here.put("api.yaml", pod("api"))
    here.put("s.yaml", SERVER.replace("NAME", "s").replace("policy.linkerd.io/v1beta3", version))
    (fault,) = here.faults
    assert fault.object == "Server demo/s"
    assert "apiVersion" in fault.reason
    assert here.decides() == "Server demo/s"


# -- faults of ours --


def test_an_object_that_cannot_be_joined_is_a_fault_and_keeps_its_joined_version(
    here: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.put("all.yaml", together(pod("api"), pod("more", "192.0.2.2")))
    sound = annotations.settings

    def odd(
        own: dict[str, Field], inherited: dict[str, str], ports: tuple[ContainerPort, ...], **more: bool
    ) -> MeshSettings:
        if inherited:
            raise ZeroDivisionError
        return sound(own, inherited, ports, **more)

    monkeypatch.setattr(annotations, "settings", odd)
    here.put("ns.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo, annotations: {x: y}}\n")
    assert here.pods == ["demo/api", "demo/more"]
    assert [(each.origin.file, each.object, each.last_good) for each in here.faults] == [
        ("all.yaml", "Pod demo/api", True),
        ("all.yaml", "Pod demo/more", True),
    ]
    assert "ZeroDivisionError" in here.faults[0].reason
    monkeypatch.setattr(annotations, "settings", sound)
    here.put("ns.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo, annotations: {x: z}}\n")
    assert here.faults == ()


def test_a_document_that_the_parser_itself_stumbles_over_is_a_fault(
    here: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.put("api.yaml", pod("api"))

    def odd(*_: object) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr(reading, "_decoded", odd)
    here.put("api.yaml", pod("api") + "# changed\n")
    assert here.pods == ["demo/api"]
    assert [each.last_good for each in here.faults] == [True]


# -- lists --


def item(name: str, at: int, more: str = "") -> str:
    inner = pod(name, f"192.0.2.{at}").replace("labels: {", f"labels: {{{more}").splitlines()
    return f"- {inner[0]}\n" + "".join(f"  {line}\n" for line in inner[1:])


LIST = "apiVersion: v1\nitems:\n{}kind: List\nmetadata:\n  resourceVersion: ''\n"


def test_a_list_whose_items_share_an_anchor_is_read_as_a_whole(here: Followed) -> None:
    here.put("all.yaml", LIST.format(item("a", 1, "x: &x y, ") + item("b", 2, "x: *x, ")))
    assert here.faults == ()
    assert of(here, "demo/b").labels == {"x": "y", "app": "b"}


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        ("apiVersion: v1\n", "kind: List\nitems: []\n"),
        ("apiVersion: [v1\n", "kind: List\n"),
        ("apiVersion: v1\n", "kind: List\nmetadata: [\n"),
        ("apiVersion: v1\nkind: List\n", "kind: List\n"),
        ('x: "\n', '"\nkind: List\n'),
    ],
)
def test_what_is_no_sound_list_around_its_items_is_a_fault(here: Followed, head: str, tail: str) -> None:
    here.put("all.yaml", f"{head}items:\n{item('a', 1)}{item('b', 2)}{tail}")
    assert here.faults or '"' in head
    assert here.pods == []


def test_one_item_that_makes_no_sense_is_a_fault_of_its_own(here: Followed) -> None:
    here.put("all.yaml", LIST.format(item("a", 1) + item("b", 2) + item("c", 3)))
    here.put("all.yaml", LIST.format(item("a", 1) + "- kind: [\n" + item("c", 30)))
    assert addresses(here) == {"demo/a": ("192.0.2.1",), "demo/b": ("192.0.2.2",), "demo/c": ("192.0.2.30",)}
    (fault,) = here.faults
    assert fault.last_good


def as_json(*documents: object) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}, indent=4)


A_POD = {
    "kind": "Pod",
    "metadata": {"name": "a", "labels": {"x": "\N{GRINNING FACE}"}},
    "status": {"podIP": "192.0.2.1"},
}


def test_json_with_surrogates_is_read_and_half_of_a_pair_is_a_fault(here: Followed) -> None:
    here.put("all.json", as_json(A_POD))
    assert of(here, "default/a").labels == {"x": "\N{GRINNING FACE}"}
    here.put("all.json", as_json(A_POD).replace("\\ude00", ""))
    (fault,) = here.faults
    assert fault.last_good
    assert msgspec.msgpack.encode(here.index.catalog)


@pytest.mark.parametrize("twice", ['"items": [],', '"kind": "List",', '"metadata": {"name": "x", "name": "y"},'])
def test_a_key_that_comes_twice_in_json_is_a_fault(here: Followed, twice: str) -> None:
    here.put("all.json", as_json({"kind": "Pod", "metadata": {"name": "b"}}))
    here.put("all.json", as_json(A_POD).replace("{", "{" + twice, 1))
    (fault,) = here.faults
    assert "comes twice" in fault.reason
    assert here.pods == ["default/b"]


def test_a_fault_in_a_json_list_has_its_line(here: Followed) -> None:
    text = as_json(
        {**A_POD, "metadata": {"name": "b"}}, {**A_POD, "spec": {"hostNetwork": "maybe"}, "metadata": {"name": "c"}}
    )
    here.put("all.json", text)
    (fault,) = here.faults
    assert "maybe" in text.splitlines()[fault.origin.line - 1]


def test_one_changed_object_among_many_is_all_that_is_read_and_joined(
    here: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work of a change, counted: documents decoded, and pods and services joined."""
    done: list[str] = []
    join_pod, join_service = join._pod, join._service

    def counted(what: str, work: Callable[..., object]) -> Callable[..., object]:
        def count(*given: Any, **named: Any) -> object:
            done.append(f"{what} {getattr(given[0], 'name', None) or given[0].pod.name}")
            return work(*given, **named)

        return count

    monkeypatch.setattr("agent.catalog.sources.files.reading.decode", counted("decode", decode))
    monkeypatch.setattr(join, "_pod", counted("join", join_pod))
    monkeypatch.setattr(join, "_service", counted("join", join_service))
    services = [
        f"kind: Service\nmetadata: {{name: s{at}, namespace: demo}}\nspec: {{selector: {{app: p{at}}}, ports: []}}\n"
        for at in range(200)
    ]
    pods = [pod(f"p{at}", f"192.0.2.{at}") for at in range(200)]
    here.put("all.yaml", together(*services, *pods))
    assert len(done) == 800
    done.clear()
    here.put("all.yaml", together(*services, *pods[:77], pods[77].replace("node-a", "node-b"), *pods[78:]))
    assert sorted(done) == ["decode p77", "join p77", "join s77"]


# -- all of it at once --

ADDRESSES = {name: f"192.0.2.{at}" for at, name in enumerate("abcde", 1)}
PLACES: st.SearchStrategy[str | None] = st.sampled_from(["x.yaml", "y.yaml", "z.yaml", None])
STATES = st.sampled_from(["good", "good", "kind: 7", "name", "address", "text", "half"])


def in_state(name: str, state: str) -> str:
    text = pod(name, ADDRESSES[name])
    match state:
        case "kind: 7":
            return text.replace("kind: Pod", "kind: 7")
        case "name":
            return text.replace(f"name: {name}", f"name: {name.upper()}_", 1)
        case "address":
            return text.replace(ADDRESSES[name], "192.0.2.300")
        case "text":
            return text.replace("spec: {", "spec: {{[")
        case "half":
            return text.replace("labels: {", "labels: {1: 2, ")
        case _:
            return text


def test_what_one_unreadable_document_brings_along_another_one_in_its_new_file_may_be(here: Followed) -> None:
    """Both came to x.yaml at once, and only one of them is mended then."""
    here.put("x.yaml", together(in_state("d", "good"), in_state("e", "good")))
    (here.directory / "x.yaml").unlink()
    here.put("z.yaml", in_state("d", "kind: 7"))
    assert here.pods == ["demo/d", "demo/e"], "that may be either"
    (here.directory / "z.yaml").write_text(in_state("a", "good"))
    here.put("x.yaml", together(in_state("d", "kind: 7"), in_state("e", "name")))
    assert here.pods == ["demo/a", "demo/d", "demo/e"]
    here.put("x.yaml", together(in_state("d", "good"), in_state("e", "name")))
    assert here.pods == ["demo/a", "demo/d", "demo/e"], "the other one's manifest is still there"


KEYED = {"good", "address", "half"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(st.lists(st.fixed_dictionaries({name: st.tuples(PLACES, STATES) for name in ADDRESSES}), max_size=6), st.data())
def test_no_sequence_of_faults_moves_and_restarts_takes_a_pod_away_that_is_still_there(
    tmp_path_factory: pytest.TempPathFactory, steps: list[dict[str, tuple[str | None, str]]], data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("sequence")
    (place / "manifests").mkdir()
    here = remembering(place / "manifests", place / "memory")
    in_force: dict[str, str] = {}
    files: dict[str, list[str]] = {}
    for step in steps:
        former_files, files = files, {}
        for name in data.draw(st.permutations(sorted(step))):
            file, state = step[name]
            if file is not None:
                files.setdefault(file, []).append(in_state(name, state))
        for each in here.directory.iterdir():
            each.unlink()
        for file, texts in files.items():
            (here.directory / file).write_text(together(*texts))
        if data.draw(st.booleans()):
            here = remembering(here.directory, place / "memory")
        else:
            save(here.load())
        names = {key.removeprefix("demo/") for key in here.pods}
        for name, (file, state) in step.items():
            before = in_force.get(name)
            at_home = file == before or (file not in former_files and before not in files)
            if state == "good" and file is not None:
                assert name in names
            elif file is not None and before is not None and (state in KEYED or at_home):
                assert name in names, "it was in force, and its manifest is still there"
        if all(state in KEYED for file, state in step.values() if file is not None):
            assert names <= {name for name, (file, _) in step.items() if file is not None}, "what is gone is gone"
        assert all(each.ips == (ADDRESSES[each.name],) for each in here.index.pods())
        in_force = {name: here.source._standings.origin(ObjectKey("Pod", "demo", name)).file for name in names}


# -- files that are written in place --


def test_whoever_opens_a_file_while_it_is_read_waits_and_the_agent_lives(here: Followed) -> None:
    text = pod("api") + "# long\n" * 200_000
    here.put("api.yaml", text)
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            write(here, "api.yaml", text)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(60):
            here.load()
            assert here.pods == ["demo/api"], here.faults
    finally:
        stop.set()
        writer.join()


@pytest.fixture
def held(here: Followed) -> Iterator[int]:
    here.put("api.yaml", pod("api"))
    fd = os.open(here.directory / "api.yaml", os.O_WRONLY)
    yield fd
    os.close(fd)


def test_a_file_that_is_open_for_writing_for_a_moment_is_no_fault_yet(here: Followed, held: int) -> None:
    here.load()
    assert here.faults == ()


async def test_a_file_is_looked_at_again_when_no_event_says_that_its_writer_is_gone(here: Followed) -> None:
    """Its writer has it by another name, and lets it go while nothing happens in the directory."""
    task = spawn(here.load().source.run(), name="the one under test")
    elsewhere = here.directory.parent / "elsewhere.yaml"
    elsewhere.write_text(pod("api"))
    with elsewhere.open("r+"):
        os.link(elsewhere, here.directory / "api.yaml")
        await asyncio.sleep(0.2)  # so that the link's own event is over
        assert here.pods == []
    async with asyncio.timeout(10):
        while here.pods != ["demo/api"]:
            here.news.clear()
            await here.news.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
