"""What a runtime asks, and what is wrong with it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cni.request import GREETING, SUPPORTED, CniError, Code, Request, answer, error, parse
from tests.cni.asked import configuration, environment, frame, result


def test_a_question_has_its_pod_its_namespace_and_the_addresses_of_the_plugins_before() -> None:
    given = configuration("192.0.2.7/24", "2001:db8::7/64")
    request = parse(frame(environment("ADD"), given))
    assert (request.command, request.version, request.pod, request.uid) == ("ADD", "1.1.0", "demo/api", "u-1")
    assert (request.container, request.netns, request.interface) == ("c1", "/run/netns/c1", "eth0")
    assert request.addresses == ("192.0.2.7", "2001:db8::7")
    assert json.loads(request.previous) == given["prevResult"]


@pytest.mark.parametrize("version", SUPPORTED)
def test_every_version_that_has_chains_is_taken(version: str) -> None:
    assert parse(frame(environment("ADD"), configuration("192.0.2.7/24", version=version))).version == version


def test_what_comes_first_has_no_result_and_a_container_of_no_pod_none_either() -> None:
    request = parse(frame(environment("ADD", args=""), configuration(prevResult=None)))
    assert (request.previous, request.addresses, request.pod, request.uid) == (b"", (), None, "")


def test_a_result_is_repeated_byte_by_byte() -> None:
    raw = b'{ "ips":[ {"address":"192.0.2.7/24"}],"x":1e3, "y":"\\u00e9" }'
    given = b'{"cniVersion":"1.0.0","prevResult":' + raw + b"}"
    assert parse(frame(environment("ADD"), given)).previous == raw


@pytest.mark.parametrize("command", ["DEL", "GC", "STATUS"])
def test_what_undoes_or_only_asks_needs_no_namespace(command: str) -> None:
    assert parse(frame({"CNI_COMMAND": command}, configuration())).netns == ""


BAD: list[tuple[str, bytes, Code, str]] = [
    ("another program", b"GET / HTTP/1.1\r\n\r\n", Code.ENVIRONMENT, "install it anew"),
    ("an older program", frame({}, {}).replace(b" 1\n", b" 0\n"), Code.ENVIRONMENT, "install it anew"),
    ("nothing in it", GREETING, Code.ENVIRONMENT, "no CNI_ variables"),
    ("no variables", frame({}, configuration()), Code.ENVIRONMENT, "no CNI_ variables"),
    ("no command", frame({"CNI_PATH": "/"}, configuration()), Code.ENVIRONMENT, "CNI_COMMAND ''"),
    ("an unknown command", frame(environment("FLY"), configuration()), Code.ENVIRONMENT, "CNI_COMMAND 'FLY'"),
    ("no JSON", frame(environment("ADD"), b"{"), Code.UNDECODABLE, "no network configuration"),
    ("no object", frame(environment("ADD"), []), Code.UNDECODABLE, "no network configuration"),
    ("no text", frame(environment("ADD"), b"\xff"), Code.UNDECODABLE, "no network configuration"),
    ("no version", frame(environment("ADD"), {"name": "x"}), Code.VERSION, "'0.1.0' is none of"),
    ("a later version", frame(environment("ADD"), configuration(version="2.0.0")), Code.VERSION, "'2.0.0' is none"),
    ("no namespace", frame(environment("ADD", netns=""), configuration()), Code.ENVIRONMENT, "CNI_NETNS is not set"),
    (
        "a variable of bytes",
        frame(environment("ADD"), configuration()).replace(b"c1", b"\xff"),
        Code.ENVIRONMENT,
        "UTF",
    ),
    ("a result of nothing", frame(environment("ADD"), configuration(prevResult=7)), Code.UNDECODABLE, "no result"),
    ("an address of nothing", frame(environment("ADD"), configuration("here/24")), Code.UNDECODABLE, "that is none"),
    (
        "a name with a slash",
        frame(environment("ADD", args="K8S_POD_NAMESPACE=a;K8S_POD_NAME=b/c"), configuration()),
        Code.ENVIRONMENT,
        "cannot be",
    ),
]


@pytest.mark.parametrize(("data", "code", "words"), [each[1:] for each in BAD], ids=[each[0] for each in BAD])
def test_what_is_wrong_is_said_with_the_specifications_code(data: bytes, code: Code, words: str) -> None:
    with pytest.raises(CniError) as raised:
        parse(data)
    assert raised.value.code is code
    assert words in f"{raised.value.message} {raised.value.details}"
    said = json.loads(error(raised.value, "1.0.0"))
    assert (said["cniVersion"], said["code"]) == ("1.0.0", int(code))


@given(st.binary(max_size=200), st.booleans())
def test_whatever_comes_is_a_question_or_an_error(data: bytes, greeted: bool) -> None:
    found = tried(GREETING + data if greeted else data)
    assert not isinstance(found, CniError) or json.loads(error(found, "1.1.0"))["msg"]


def tried(data: bytes) -> Request | CniError:
    try:
        return parse(data)
    except CniError as fault:
        return fault


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_whatever_the_result_is_it_is_repeated_or_refused(value: Any) -> None:
    found = tried(frame(environment("ADD"), configuration(prevResult=value)))
    if isinstance(found, CniError):
        assert found.code is Code.UNDECODABLE
    else:
        assert (json.loads(found.previous) if found.previous else None) == value


def test_an_answer_says_how_long_it_is() -> None:
    printed = json.dumps(result("192.0.2.7/24")).encode()
    assert answer(0, printed) == b"0 %d\n" % len(printed) + printed
    assert answer(1, b"") == b"1 0\n"
