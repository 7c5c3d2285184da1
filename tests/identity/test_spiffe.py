"""The SPIFFE-ID standard, section by section, and a parser written as naively as possible to agree with."""

import string
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.identity.spiffe import SpiffeId, SpiffeIdError, check_trust_domain

TRUST_DOMAIN_CHARACTERS = string.ascii_lowercase + string.digits + ".-_"
PATH_CHARACTERS = string.ascii_letters + string.digits + ".-_"


def naive(text: str) -> tuple[str, str] | None:
    """The standard, word for word: (trust domain, path), or None."""
    if len(text.encode("utf-8", "surrogatepass")) > 2048:
        return None
    if text[:9].lower() != "spiffe://":
        return None
    rest = text[9:]
    trust_domain = rest.split("/")[0]
    path = rest[len(trust_domain) :]
    if not 0 < len(trust_domain) <= 255 or not all(char in TRUST_DOMAIN_CHARACTERS for char in trust_domain):
        return None
    if path:
        for segment in path[1:].split("/"):
            if segment in {"", ".", ".."} or not all(char in PATH_CHARACTERS for char in segment):
                return None
    return trust_domain, path


def parsed(text: str) -> tuple[str, str] | None:
    try:
        spiffe_id = SpiffeId.parse(text)
    except SpiffeIdError:
        return None
    return spiffe_id.trust_domain, spiffe_id.path


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://example.org",  # 2: a trust domain's own ID
        "spiffe://example.org/myservice",
        "spiffe://example.org/ns/demo/sa/web",
        "spiffe://1.2.3.4/service",  # 2.1: an address is a name like any other
        "spiffe://trust_domain-1.test/a",
        "spiffe://example.org/A.b-C_d/...",  # 2.2: three dots are an ordinary segment
        "SPIFFE://example.org/a",  # RFC 3986, section 3.1: the scheme ignores case
    ],
)
def test_what_the_standard_allows_is_accepted(text: str) -> None:
    assert parsed(text) == naive(text) is not None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "scheme"),
        ("https://example.org/a", "scheme"),  # 2: the scheme
        ("spiffe:/example.org/a", "scheme"),
        ("spiffe://", "trust domain is empty"),  # 2.1
        ("spiffe:///a", "trust domain is empty"),
        ("spiffe://Example.org/a", "outside a-z"),
        ("spiffe://user@example.org/a", "outside a-z"),  # no userinfo
        ("spiffe://example.org:443/a", "outside a-z"),  # no port
        ("spiffe://exämple.org/a", "outside a-z"),
        ("spiffe://example%2eorg/a", "outside a-z"),
        ("spiffe://" + "a" * 256, "longer than 255"),
        ("spiffe://example.org/", "empty segment or a trailing slash"),  # 2.2
        ("spiffe://example.org/a/", "empty segment or a trailing slash"),
        ("spiffe://example.org//a", "empty segment"),
        ("spiffe://example.org/a/../b", "relative segment"),
        ("spiffe://example.org/./a", "relative segment"),
        ("spiffe://example.org/a%20b", "character outside"),
        ("spiffe://example.org/a?query", "character outside"),  # 2: no query, no fragment
        ("spiffe://example.org/a#fragment", "character outside"),
        ("spiffe://example.org/a\n", "character outside"),
        ("spiffe://example.org\n", "outside a-z"),
        ("spiffe://example.org/" + "a" * 2048, "longer than 2048"),  # 2.3
    ],
)
def test_what_the_standard_forbids_is_refused_with_its_reason(text: str, reason: str) -> None:
    assert naive(text) is None
    with pytest.raises(SpiffeIdError) as caught:
        SpiffeId.parse(text)
    assert reason in caught.value.reason
    assert str(caught.value)


ALMOST = st.builds(
    "".join,
    st.lists(
        st.sampled_from(
            [
                "spiffe",
                "://",
                ":",
                "/",
                ".",
                "..",
                "example.org",
                "ns",
                "sa",
                "A",
                "é",
                "\n",
                "%",
                "?",
                "#",
                "@",
                "-",
                "_",
                "0",
            ]
        ),
        max_size=12,
    ),
)


@given(st.one_of(st.text(max_size=60), ALMOST, ALMOST.map(lambda tail: f"spiffe://{tail}")))
@example("spiffe://a" + "/b" * 1100)
def test_both_parsers_agree_on_everything(text: str) -> None:
    assert parsed(text) == naive(text)


@given(
    st.text(TRUST_DOMAIN_CHARACTERS, min_size=1, max_size=255),
    st.lists(
        st.text(PATH_CHARACTERS, min_size=1, max_size=20).filter(lambda segment: segment not in {".", ".."}), max_size=6
    ),
)
def test_an_id_is_written_as_it_was_read(trust_domain: str, segments: list[str]) -> None:
    text = "spiffe://" + "/".join([trust_domain, *segments])
    assert str(SpiffeId.parse(text)) == text


def test_a_workloads_names() -> None:
    web = SpiffeId.for_service_account("example.test", "demo", "web")
    assert str(web) == "spiffe://example.test/ns/demo/sa/web"
    assert web.workload == ("demo", "web")
    assert web.dns_name == "web.demo.serviceaccount.identity.example.test"
    agent = SpiffeId.for_agent("example.test", "node-1")
    assert (agent.workload, agent.dns_name) == (None, None)


HOSTILE = ["a/b", "a/sa/b", "/", "", ".", "..", "a b", "a\n", "é"]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(
    "make",
    [
        lambda name: SpiffeId.for_service_account("example.test", "demo", name),
        lambda name: SpiffeId.for_service_account("example.test", name, "web"),
        lambda name: SpiffeId.for_agent("example.test", name),
    ],
    ids=["service account", "namespace", "node"],
)
def test_a_name_that_would_make_another_path_of_it_is_refused(make: Callable[[str], SpiffeId], name: str) -> None:
    """With a slash in it, one workload's or node's identity would be another's, or nobody's."""
    with pytest.raises(SpiffeIdError):
        make(name)


@pytest.mark.parametrize("namespace", ["a/sa/b", "a/b"])
def test_a_slash_is_told_as_what_is_wrong(namespace: str) -> None:
    with pytest.raises(SpiffeIdError, match="has a slash"):
        SpiffeId.for_service_account("example.test", namespace, "web")
    with pytest.raises(SpiffeIdError, match=f"spiffe://example.test/agent/{namespace}.*has a slash"):
        SpiffeId.for_agent("example.test", namespace)


@pytest.mark.parametrize(
    ("path", "workload", "agent"),
    [
        ("", None, None),
        ("/ns/demo/sa/web", ("demo", "web"), None),
        ("/ns/demo/sa/web/more", None, None),
        ("/more/ns/demo/sa/web", None, None),
        ("/ns/demo/sb/web", None, None),
        ("/NS/demo/sa/web", None, None),
        ("/agent/node-a", None, "node-a"),
        ("/agent/node-a/more", None, None),
        ("/authority", None, None),
        ("/x/agent/node-a", None, None),
    ],
)
def test_who_is_a_workload_and_who_an_agent_is_told_by_the_whole_path(
    path: str, workload: tuple[str, str] | None, agent: str | None
) -> None:
    found = SpiffeId.parse(f"spiffe://example.test{path}")
    assert (found.workload, found.agent) == (workload, agent)
    assert (found.dns_name is None) is (workload is None)


def test_limits_are_met_to_the_byte() -> None:
    longest = "spiffe://example.test/" + "a" * (2048 - 22)
    assert str(SpiffeId.parse(longest)) == longest
    with pytest.raises(SpiffeIdError, match="longer than 2048 bytes"):
        SpiffeId.parse(longest + "a")
    check_trust_domain("a" * 255)
    with pytest.raises(SpiffeIdError, match="longer than 255 bytes"):
        check_trust_domain("a" * 256)


def test_an_error_shows_the_text_that_was_given_cut_short_and_the_rule() -> None:
    with pytest.raises(SpiffeIdError) as caught:
        SpiffeId.parse("spiffe://Example.test/" + "a" * 200)
    assert caught.value.text.endswith("a" * 200)
    assert str(caught.value).startswith("'spiffe://Example.test/aaa")
    assert str(caught.value).endswith("' is not a SPIFFE ID: the trust domain has a character outside a-z 0-9 . - _")
    assert len(str(caught.value)) < 220
    with pytest.raises(SpiffeIdError, match="'Example' is not a SPIFFE ID"):
        check_trust_domain("Example")


LETTERS = string.ascii_lowercase + string.digits
label = st.text(LETTERS + "-", min_size=1, max_size=63).filter(lambda name: name.strip("-") == name)
subdomain = st.one_of(
    st.lists(label, min_size=1, max_size=8).map(".".join),
    st.text(LETTERS, min_size=1, max_size=253),  # Kubernetes bounds a service account's name, and no label in it
).filter(lambda name: len(name) <= 253)
trust_domains = st.one_of(st.just("example.test"), st.text(TRUST_DOMAIN_CHARACTERS, min_size=1, max_size=255))
workloads = st.builds(SpiffeId.for_service_account, trust_domains, label, subdomain)
neighbours = st.builds(SpiffeId.for_service_account, st.just("example.test"), label, subdomain)
LONGEST = SpiffeId.for_service_account("example.test", "n" * 63, "s" * 253)


def long_name(spiffe_id: SpiffeId) -> str:
    """What a name is where nothing is too long for it."""
    assert spiffe_id.workload is not None
    namespace, account = spiffe_id.workload
    return f"{account}.{namespace}.serviceaccount.identity.{spiffe_id.trust_domain}"


@given(workloads)
@example(LONGEST)
@example(SpiffeId.for_service_account("t" * 255, "n" * 63, "s" * 253))
@example(SpiffeId.for_service_account("example.test", "n" * 63, "s" * 199))
def test_every_workload_has_a_name_that_tls_and_dns_can_write(spiffe_id: SpiffeId) -> None:
    name = spiffe_id.dns_name
    assert name is not None
    assert len(name) <= 255
    assert all(0 < len(label) <= 63 for label in name.split("."))
    assert name.isascii()
    again = SpiffeId.parse(str(spiffe_id))
    assert again.dns_name == name, "both sides make the same of it"


@given(workloads)
def test_a_name_that_can_be_written_stays_as_it_is(spiffe_id: SpiffeId) -> None:
    """Agents of other versions make the same of it."""
    name = long_name(spiffe_id)
    fits = len(name) <= 255 and all(0 < len(label) <= 63 for label in name.split("."))
    assert (spiffe_id.dns_name == name) == fits


@pytest.mark.parametrize(("account", "fits"), [("a" * 63, True), ("a" * 64, False)])
def test_a_label_of_63_characters_is_one_and_a_longer_one_is_not(account: str, *, fits: bool) -> None:
    spiffe_id = SpiffeId.for_service_account("example.test", "demo", account)
    assert (spiffe_id.dns_name == long_name(spiffe_id)) is fits


@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
def test_a_name_of_255_characters_is_one_and_a_longer_one_is_not(more: int, *, fits: bool) -> None:
    rest = len(long_name(SpiffeId.for_service_account("example.test", "demo", "a"))) - 1
    account = ".".join(["a" * 50] * 4)
    account += "." + "b" * (255 + more - rest - len(account) - 1)
    spiffe_id = SpiffeId.for_service_account("example.test", "demo", account)
    assert len(long_name(spiffe_id)) == 255 + more
    assert (spiffe_id.dns_name == long_name(spiffe_id)) is fits


@given(st.lists(neighbours, unique=True, min_size=2, max_size=6))
@example([LONGEST, SpiffeId.for_service_account("example.test", "n" * 63, "s" * 252)])
@example([LONGEST, SpiffeId.for_service_account("example.test", "serviceaccount", "s")])
def test_no_two_workloads_of_a_mesh_have_the_same_name(found: list[SpiffeId]) -> None:
    assert len({each.dns_name for each in found}) == len(found)


def test_a_stand_in_is_of_the_trust_domain_where_that_is_not_what_is_too_long() -> None:
    assert LONGEST.dns_name == (
        "bhh2s7captgr6c2scisbllx2tnikma5aohlejsrxcgchjha5d4kq.serviceaccount.identity.example.test"
    ), "a change of this would divide agents of two versions"
    td = "t" * 64
    assert (SpiffeId.for_service_account(td, "demo", "web").dns_name or "").endswith(".serviceaccount.identity")
