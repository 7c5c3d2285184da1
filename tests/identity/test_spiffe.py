"""The SPIFFE-ID standard, section by section, and a parser written as naively as possible to agree with."""

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.identity.spiffe import SpiffeId, SpiffeIdError

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


@pytest.mark.parametrize("account", ["a/b", "", "..", "a b"])
def test_names_that_would_change_the_path_are_refused(account: str) -> None:
    with pytest.raises(SpiffeIdError):
        SpiffeId.for_service_account("example.test", "demo", account)
