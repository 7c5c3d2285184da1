"""Whose file a runtime takes, and that we are its last, whatever else is in it; nothing of others is lost."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cni.conflist import (
    TYPE,
    ConfigurationError,
    Plugin,
    entries,
    is_as_it_should_be,
    name_with,
    taken,
    with_us,
    without_us,
)

PLUGIN = Plugin(socket="/run/quietwire/cni/cni.sock", seconds=60, exempt_namespaces=("kube-system", "mesh"))
OTHER = Plugin(socket="/run/other", seconds=1, exempt_namespaces=())
BRIDGE = {"type": "bridge", "ipam": {"type": "host-local"}, "of-ours": {"é": [1, None]}}


def a_list(*plugins: Any, version: Any = "1.0.0", **more: Any) -> bytes:
    return json.dumps({"cniVersion": version, "name": "it", "plugins": list(plugins), **more}).encode()


@pytest.mark.parametrize(
    ("names", "name"),
    [
        ([], None),
        (["README", "10-a.yaml", ".10-a.conflist", "10-a.conf.bak", "20-b.conflist.123"], None),
        (["20-b.conflist", "10-a.conf", "05-c.json.old"], "10-a.conf"),
        (["10-a.conflist", "10-a.conf"], "10-a.conf"),
        (["b.json", "a.conflist"], "a.conflist"),
        (["Z.conf", "a.conf"], "Z.conf"),
    ],
)
def test_a_runtime_takes_the_first_by_name(names: list[str], name: str | None) -> None:
    assert taken(names) == name


def test_a_list_is_one_by_its_name() -> None:
    assert [name_with(each) for each in ("10-a.conf", "10-a.json", "10-a.b.conflist")] == [
        "10-a.conflist",
        "10-a.conflist",
        "10-a.b.conflist",
    ]


def test_we_come_last_and_all_others_stay_as_they_are() -> None:
    made = with_us(a_list(BRIDGE, {"type": "portmap"}, disableCheck=True), PLUGIN)
    assert [each["type"] for each in entries(made)] == ["bridge", "portmap", TYPE]
    assert entries(made)[-1] == {
        "type": TYPE,
        "socket": "/run/quietwire/cni/cni.sock",
        "timeoutSeconds": 60,
        "exemptNamespaces": ["kube-system", "mesh"],
    }
    assert json.loads(made)["disableCheck"] is True
    assert entries(made)[0] == BRIDGE
    assert is_as_it_should_be(made, PLUGIN)
    assert not is_as_it_should_be(made, OTHER)


def test_a_single_plugin_becomes_a_list_of_two() -> None:
    made = json.loads(with_us(json.dumps({"cniVersion": "0.4.0", "name": "it", **BRIDGE}).encode(), PLUGIN))
    assert (made["cniVersion"], made["name"]) == ("0.4.0", "it")
    assert made["plugins"] == [BRIDGE, PLUGIN.entry]


@pytest.mark.parametrize(
    "plugins",
    [[PLUGIN.entry, BRIDGE], [BRIDGE, OTHER.entry], [BRIDGE, PLUGIN.entry, PLUGIN.entry], [BRIDGE], [PLUGIN.entry]],
)
def test_whatever_else_of_us_is_there_is_not_as_it_should_be(plugins: list[Any]) -> None:
    assert not is_as_it_should_be(a_list(*plugins), PLUGIN) or plugins == [PLUGIN.entry]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff", "no JSON"),
        (b"[]", "no JSON object"),
        (b"{}", "neither a plugin's type nor plugins"),
        (b'{"plugins":{}}', "neither"),
        (b'{"plugins":[]}', "neither"),
        (b'{"plugins":[1]}', "neither"),
        (a_list(PLUGIN.entry), "no other plugin"),
        (a_list(BRIDGE, version="0.2.0"), "from 0.3.0 on"),
        (a_list(BRIDGE, version=7), "from 0.3.0 on"),
        (a_list(BRIDGE, version="1.0"), "from 0.3.0 on"),
        (b'{"name":"it","type":"bridge"}', "from 0.3.0 on"),
    ],
)
def test_what_cannot_have_us_in_it_is_said(raw: bytes, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        with_us(raw, PLUGIN)


NAMES = st.sampled_from(["bridge", "portmap", "é", TYPE])
PLUGINS = st.lists(st.fixed_dictionaries({"type": NAMES, "of-its-own": st.integers()}), min_size=1, max_size=5)


@given(PLUGINS)
def test_in_and_out_again_leaves_what_was_there_without_us(plugins: list[dict[str, Any]]) -> None:
    others = [each for each in plugins if each["type"] != TYPE]
    raw = a_list(*plugins)
    if not others:
        with pytest.raises(ConfigurationError):
            with_us(raw, PLUGIN)
        return
    made = with_us(raw, PLUGIN)
    assert is_as_it_should_be(made, PLUGIN)
    assert with_us(made, PLUGIN) == made
    back = without_us(made)
    assert back is not None
    assert json.loads(back) == json.loads(a_list(*others))
    assert without_us(back) is None
