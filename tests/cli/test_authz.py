"""`quietwire authz …` as an operator types it: verdicts and reasons, exit codes, and what `check` warns of."""

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.catalog.services import endpoint, endpoint_slice, node, service
from tests.cli.typed import Done, quietwire
from tests.policy.world import Manifest, manifest, text_of

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
SHOP = EXAMPLES / "shop"
SHOP_TESTS = EXAMPLES / "shop-tests.yaml"
EXPLANATION = {"verdict", "server", "authorization", "reason", "considered"}


class Typed:
    """What an operator types behind `quietwire authz`."""

    def __call__(self, *words: str | Path) -> Done:
        return quietwire("authz", *words)

    def explain(self, *words: str, manifests: Path = SHOP) -> dict[str, Any]:
        """The JSON document of a question that has an answer."""
        done = self("explain", *words, "--manifests", manifests, "--json")
        assert (done.code, done.err) == (0, "")
        answer: dict[str, Any] = done.json
        assert answer.keys() == EXPLANATION
        return answer


@pytest.fixture
def typed() -> Typed:
    return Typed()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory for manifests, with nothing else in it."""
    directory = tmp_path / "manifests"
    directory.mkdir()
    return directory


def write(path: Path, *manifests: Manifest) -> Path:
    path.write_text(text_of(manifests), encoding="utf-8")
    return path


# explain


def test_an_allowed_question_names_the_server_and_the_authorization(typed: Typed) -> None:
    answer = typed.explain("--from", "shop/web", "--to", "shop/cart", "--port", "http")
    assert answer["verdict"] == "allow"
    assert answer["server"] == "Server shop/cart-http"
    assert answer["authorization"] == "AuthorizationPolicy shop/cart-from-web"
    assert "AuthorizationPolicy shop/cart-from-web" in answer["reason"]


def test_a_denial_names_its_reason_and_what_each_authorization_lacked(typed: Typed) -> None:
    answer = typed.explain("--from-ip", "192.0.2.9", "--to", "shop/payments", "--port", "8080")
    assert (answer["verdict"], answer["server"]) == ("deny", "Server shop/payments-http")
    assert answer["authorization"] == ""
    assert "shop/payments:8080" in answer["reason"]
    (considered,) = answer["considered"]
    assert considered["authorization"] == "AuthorizationPolicy shop/payments-from-cart"
    assert "192.0.2.9" in considered["lacked"]
    assert "no mesh identity" in considered["lacked"]


def test_the_text_says_the_same_as_the_json(typed: Typed) -> None:
    words = ("--from", "shop/catalog", "--to", "shop/cart", "--port", "8080")
    answer = typed.explain(*words)
    done = typed("explain", *words, "--manifests", SHOP)
    assert done.code == 0
    assert done.out.startswith("deny: shop/catalog -> shop/cart:8080\n")
    assert f"server: {answer['server']}\n" in done.out
    assert f"reason: {answer['reason']}\n" in done.out
    for each in answer["considered"]:
        assert f"{each['authorization']}: {each['lacked']}\n" in done.out


WEB_ID = "web.shop.serviceaccount.identity.cluster.local"
CLUSTER_ONLY = "--default-inbound-policy cluster-authenticated"
LINKERDS_WEB_ID = "web.shop.serviceaccount.identity.linkerd.cluster.local"


@pytest.mark.parametrize(
    ("words", "verdict", "decided"),
    [
        ("--from-ip 10.1.2.3 --to shop/web --port http", "allow", "AuthorizationPolicy shop/web-from-cluster"),
        ("--from-ip ::ffff:10.1.2.3 --to shop/web --port http", "allow", "AuthorizationPolicy shop/web-from-cluster"),
        ("--from-ip fd00::9 --to shop/web --port 8080", "allow", "AuthorizationPolicy shop/web-from-cluster"),
        ("--from-ip 10.255.255.7 --to shop/web --port http", "deny", "Server shop/web-http"),
        ("--from-ip ::ffff:10.255.255.7 --to shop/web --port http", "deny", "Server shop/web-http"),
        ("--from-ip 2001:db8::1 --to shop/web --port http", "deny", "Server shop/web-http"),
        (f"--from-ip 192.0.2.1 --from-id {WEB_ID} --to shop/cart --port http", "allow", "shop/cart-from-web"),
        (
            f"--from-ip 192.0.2.1 --from-id {LINKERDS_WEB_ID} --to shop/cart --port http",
            "allow",
            "shop/cart-from-web",
        ),
        (
            "--from-ip 10.1.1.1 --from-id spiffe://cluster.local/ns/shop/sa/web --to shop/cart --port 8080",
            "allow",
            "web",
        ),
        (
            "--from-ip 10.1.1.1 --from-id spiffe://cluster.local/ns/x/sa/web --to shop/cart --port 8080",
            "deny",
            "cart-http",
        ),
        (f"--from-ip 10.1.1.1 --from-id {WEB_ID} --to shop/catalog --port http", "allow", "catalog-readers"),
        (f"--from-ip 192.0.2.1 --from-id {WEB_ID} --to shop/catalog --port http", "deny", "Server shop/catalog-http"),
        ("--from shop/cart --to shop/web --port metrics", "allow", "AuthorizationPolicy shop/metrics-from-shop"),
        ("--from-ip 10.1.2.3 --to shop/web --port metrics", "deny", "Server shop/metrics"),
        ("--from shop/web --to shop/payments --port 22", "deny", "default:deny"),
    ],
)
def test_questions_about_the_shop(typed: Typed, words: str, verdict: str, decided: str) -> None:
    answer = typed.explain(*words.split())
    assert answer["verdict"] == verdict
    assert decided in (answer["authorization"] if verdict == "allow" else answer["server"])


def pod(name: str, ip: str, *, annotation: tuple[str, str] | None = None, host: str | None = None) -> Manifest:
    return manifest(
        f"Pod demo/{name}",
        {
            "metadata": {"annotations": dict([annotation] if annotation else [])},
            "spec": {"containers": [{"name": "c", "livenessProbe": {"httpGet": {"port": 9000}}}]},
            "status": {"podIP": ip, **({"hostIP": host} if host else {})},
        },
    )


@pytest.fixture
def pods(place: Path) -> Path:
    write(
        place / "pods.yaml",
        pod("one", "10.1.0.1", host="10.9.0.1"),
        pod("two", "192.0.2.2"),
        pod("outside", "10.1.0.3", annotation=("linkerd.io/inject", "disabled")),
        pod("watched", "10.1.0.4", annotation=("config.linkerd.io/default-inbound-policy", "audit")),
        pod("partly", "10.1.0.5", annotation=("config.linkerd.io/skip-inbound-ports", "22")),
    )
    return place


@pytest.mark.parametrize(
    ("words", "verdict", "server"),
    [
        ("--from demo/one --to demo/one --port 80", "allow", ""),
        ("--from demo/one --to demo/one --port 80 --default-inbound-policy deny", "allow", ""),
        ("--from demo/two --to demo/one --port 80", "allow", "default:all-authenticated"),
        ("--from demo/outside --to demo/one --port 80", "deny", "default:all-authenticated"),
        ("--from demo/one --to demo/outside --port 80 --default-inbound-policy deny", "allow", ""),
        ("--from demo/one --to demo/outside --port 80 --egress-mode meshed-only", "deny", None),
        ("--from demo/one --to demo/partly --port 22 --default-inbound-policy deny", "allow", ""),
        ("--from demo/one --to demo/partly --port 23 --default-inbound-policy deny", "deny", "default:deny"),
        ("--from demo/two --to demo/one --port 80 --default-inbound-policy deny", "deny", "default:deny"),
        ("--from demo/two --to demo/watched --port 80 --default-inbound-policy deny", "audit", "default:audit"),
        (
            f"--from demo/two --to demo/one --port 80 {CLUSTER_ONLY}",
            "deny",
            "default:cluster-authenticated",
        ),
        (
            f"--from demo/two --to demo/one --port 80 {CLUSTER_ONLY} --cluster-networks 192.0.2.0/24,2001:db8::/32",
            "allow",
            "default:cluster-authenticated",
        ),
        ("--from-ip 10.9.0.1 --to demo/one --port 9000 --default-inbound-policy deny", "allow", "default:deny"),
        ("--from-ip 10.9.0.1 --to demo/one --port 9001 --default-inbound-policy deny", "deny", "default:deny"),
        ("--from-ip 10.9.0.2 --to demo/one --port 9000 --default-inbound-policy deny", "deny", "default:deny"),
        (
            "--from-ip 10.1.0.9 --from-id spiffe://example.test/a --to demo/one --port 80 --trust-domain example.test",
            "allow",
            "default:all-authenticated",
        ),
    ],
)
def test_flags_and_annotations_are_those_of_an_agent(
    typed: Typed, pods: Path, words: str, verdict: str, server: str | None
) -> None:
    answer = typed.explain(*words.split(), manifests=pods)
    assert answer["verdict"] == verdict
    assert server is None or answer["server"] == server
    assert answer["reason"]


def test_a_fault_in_the_manifests_is_said_and_does_not_hinder_the_answer(typed: Typed, pods: Path) -> None:
    write(pods / "bad.yaml", manifest("Server demo/s", {"podSelector": {}, "port": 99999}))
    done = typed("explain", "--from", "demo/one", "--to", "demo/two", "--port", "80", "--manifests", pods, "--json")
    assert done.code == 0
    assert done.json["verdict"] in {"allow", "deny"}
    assert f"{pods / 'bad.yaml'}:" in done.err
    assert "99999" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--port 80 --from demo/one", "--to"),
        ("--to demo/one --from demo/two", "--port"),
        ("--to demo/one --port 80", "from-ip"),
        ("--to demo/one --port 80 --from demo/two --from-ip 10.0.0.1", "from-ip"),
        ("--to demo/one --port 80 --from demo/two --from-id spiffe://cluster.local/a", "from-id"),
        ("--to demo/none --port 80 --from demo/two", "demo/none"),
        ("--to demo/one --port 80 --from demo/none", "demo/none"),
        ("--to one --port 80 --from demo/two", "NAMESPACE/POD"),
        ("--to demo/one --port http --from demo/two", "'http'"),
        ("--to demo/one --port 0 --from demo/two", "1 to 65535"),
        ("--to demo/one --port 65536 --from demo/two", "1 to 65535"),
        ("--to demo/one --port 80 --from-ip 10.0.0", "from-ip"),
        ("--to demo/one --port 80 --from-ip 10.0.0.1 --from-id web", "from-id"),
        ("--to demo/one --port 80 --from-ip 10.0.0.1 --from-id spiffe://", "from-id"),
        ("--to demo/one --port 80 --from-ip 10.0.0.1 --from-id spiffe://example.test/a", "example.test"),
        ("--to demo/one --port 80 --from demo/two --default-inbound-policy open", "open"),
        ("--to demo/one --port 80 --from demo/two --cluster-networks 10.0.0.0/99", "10.0.0.0/99"),
        ("--to demo/one --port 80 --from demo/two --trust-domain Upper", "Upper"),
        ("--to demo/one --port 80 --from demo/two --egress-mode never", "never"),
        ("--to demo/one --port 80 --from demo/two --surplus 1", "surplus"),
    ],
)
def test_bad_usage_is_said_clearly_and_ends_with_2(typed: Typed, pods: Path, words: str, message: str) -> None:
    done = typed("explain", *words.split(), "--manifests", pods)
    assert done.code == 2
    assert message in done.out + done.err
    assert "Traceback" not in done.err


def test_manifests_that_are_no_directory_are_named(typed: Typed, place: Path) -> None:
    done = typed("explain", "--from", "a/b", "--to", "a/c", "--port", "80", "--manifests", place / "none")
    assert done.code == 2
    assert str(place / "none") in done.err


def test_without_an_agent_it_says_what_to_do(typed: Typed) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # and does not listen, so that whoever dials it is refused
        admin = f"127.0.0.1:{reserved.getsockname()[1]}"
        done = typed("explain", "--from", "a/b", "--to", "a/c", "--port", "80", "--admin", admin)
    assert done.code == 2
    assert admin in done.err
    assert "--manifests" in done.err


class Agent(BaseHTTPRequestHandler):
    """What an agent's admin server says to a question: an answer, or that there is no such pod."""

    asked: list[dict[str, list[str]]]

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        self.asked.append(query)
        known = query["to"] == ["a/c"]
        answer = {"verdict": "deny", "server": "s", "authorization": "", "reason": "r", "considered": []}
        body = (json.dumps(answer) if known else f"there is no pod {query['to'][0]}\n").encode()
        self.send_response(200 if known else 400)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any, **__: Any) -> None:
        return


@pytest.fixture
def agent() -> Iterator[str]:
    Agent.asked = []
    with HTTPServer(("127.0.0.1", 0), Agent) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_running_agent_is_asked_and_its_answer_printed(typed: Typed, agent: str) -> None:
    done = typed("explain", "--from-ip", "fd00::9", "--to", "a/c", "--port", "http", "--admin", agent, "--json")
    assert done.code == 0
    assert done.json.keys() == EXPLANATION
    assert done.json["verdict"] == "deny"
    assert Agent.asked == [{"to": ["a/c"], "port": ["http"], "from-ip": ["fd00::9"]}]


def test_what_an_agent_cannot_answer_is_said_in_its_words(typed: Typed, agent: str) -> None:
    done = typed("explain", "--from", "a/b", "--to", "a/d", "--port", "80", "--admin", agent)
    assert done.code == 2
    assert "there is no pod a/d" in done.err


# test


def test_the_example_shop_passes_its_tests(typed: Typed) -> None:
    done = typed("test", SHOP_TESTS, "--manifests", SHOP)
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(r"\d+ cases, 0 differ\n", done.out)


def test_the_same_in_a_process_of_its_own() -> None:
    for words in (["test", SHOP_TESTS, "--manifests", SHOP], ["check", SHOP]):
        done = subprocess.run([sys.executable, "-m", "agent.cli", "authz", *map(str, words)], check=False, timeout=60)
        assert done.returncode == 0


def test_a_wrong_expectation_ends_with_1_and_prints_the_explanation(typed: Typed, tmp_path: Path) -> None:
    cases = tmp_path / "cases.yaml"
    cases.write_text(
        "- {from: shop/web, to: shop/cart, port: http, expect: allow}\n"
        "- from: shop/web\n"
        "  to: shop/payments\n"
        "  port: 8080\n"
        "  expect: allow\n"
        "  because: web once took money\n",
        encoding="utf-8",
    )
    done = typed("test", cases, "--manifests", SHOP)
    assert done.code == 1
    assert f"{cases}:2: shop/web -> shop/payments:8080: expected allow, and it is deny\n" in done.out
    assert "because: web once took money" in done.out
    assert "server: Server shop/payments-http" in done.out
    assert "AuthorizationPolicy shop/payments-from-cart: " in done.out
    assert done.out.endswith("2 cases, 1 differ\n")

    done = typed("test", cases, "--manifests", SHOP, "--json")
    assert done.code == 1
    assert done.json["cases"] == 2
    (failed,) = done.json["failed"]
    assert (failed["file"], failed["line"], failed["expect"]) == (str(cases), 2, "allow")
    assert failed["because"] == "web once took money"
    assert failed["explanation"].keys() == EXPLANATION
    assert failed["explanation"]["verdict"] == "deny"


def test_each_verdict_can_be_expected_and_the_flags_hold_for_tests_too(
    typed: Typed, tmp_path: Path, pods: Path
) -> None:
    cases = tmp_path / "cases.json"
    cases.write_text(
        json.dumps(
            [
                {"from": "demo/one", "to": "demo/watched", "port": 80, "expect": "audit"},
                {"from": "demo/one", "to": "demo/two", "port": 80, "expect": "deny"},
                {"from-ip": "10.9.0.1", "to": "demo/one", "port": 9000, "expect": "allow"},
            ]
        ),
        encoding="utf-8",
    )
    assert typed("test", cases, "--manifests", pods, "--default-inbound-policy", "deny").code == 0
    assert typed("test", cases, "--manifests", pods).code == 1


def test_a_case_about_a_pod_that_does_not_exist_differs(typed: Typed, tmp_path: Path) -> None:
    cases = tmp_path / "cases.yaml"
    cases.write_text("- {from: shop/web, to: shop/gone, port: 80, expect: deny}\n", encoding="utf-8")
    done = typed("test", cases, "--manifests", SHOP)
    assert done.code == 1
    assert "no pod shop/gone" in done.out


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "no cases"),
        ("[]\n", None, "no cases"),
        ("- {from: a/b\n", None, ""),
        (
            "- {from: a/b, to: a/c, port: 80, expect: allow}\n- {from: a/b, to: a/c, port: 80, expect: maybe}\n",
            2,
            "maybe",
        ),
        ("- {from: a/b, to: a/c, port: 80}\n", 1, "expect"),
        ("- {from: a/b, port: 80, expect: allow}\n", 1, "to"),
        ("- {from: a/b, to: a/c, expect: allow}\n", 1, "port"),
        ("- {from: a/b, to: a/c, port: 70000, expect: allow}\n", 1, "70000"),
        ("- {to: a/c, port: 80, expect: allow}\n", 1, "from-ip"),
        ("- {from: a/b, from-ip: 10.0.0.1, to: a/c, port: 80, expect: allow}\n", 1, "from-ip"),
        ("- {from: a/b, to: a/c, port: 80, expect: allow, why: x}\n", 1, "'why'"),
        ("from: a/b\n", 1, ""),
    ],
)
def test_a_file_that_is_no_list_of_cases_is_bad_usage(
    typed: Typed, tmp_path: Path, text: str, line: int | None, message: str
) -> None:
    cases = tmp_path / "cases.yaml"
    cases.write_text(text, encoding="utf-8")
    done = typed("test", cases, "--manifests", SHOP)
    assert done.code == 2
    assert f"{cases}:{'' if line is None else line}" in done.err
    assert message in done.err


def test_tests_that_do_not_exist_and_manifests_that_do_not(typed: Typed, tmp_path: Path) -> None:
    assert typed("test", tmp_path / "none.yaml", "--manifests", SHOP).code == 2
    done = typed("test", SHOP_TESTS, "--manifests", tmp_path / "none")
    assert done.code == 2
    assert str(tmp_path / "none") in done.err
    assert typed("test", SHOP_TESTS).code == 2


# check

SERVER_REF = {"group": "policy.linkerd.io", "kind": "Server", "name": "s"}
TARGET = {"podSelector": {"matchLabels": {"app": "api"}}, "port": 80}
API = manifest("Pod demo/api", {"metadata": {"labels": {"app": "api"}}, "status": {"podIP": "10.1.0.1"}})
SOUND = (
    API,
    manifest("Server demo/s", TARGET),
    manifest(
        "AuthorizationPolicy demo/p",
        {"targetRef": SERVER_REF, "requiredAuthenticationRefs": [{"kind": "ServiceAccount", "name": "web"}]},
    ),
)


def policy(target: dict[str, Any], *refs: dict[str, Any]) -> Manifest:
    return manifest("AuthorizationPolicy demo/odd", {"targetRef": target, "requiredAuthenticationRefs": list(refs)})


def networks(*entries: dict[str, Any]) -> Manifest:
    return manifest("NetworkAuthentication demo/odd", {"networks": list(entries)})


ODD = [
    (policy(SERVER_REF, {"group": "policy.linkerd.io", "kind": "MeshTLSAuthentication", "name": "gone"}), "demo/gone"),
    (policy(SERVER_REF, {"group": "policy.linkerd.io", "kind": "NetworkAuthentication", "name": "gone"}), "demo/gone"),
    (policy({**SERVER_REF, "name": "gone"}, {"kind": "ServiceAccount", "name": "web"}), "demo/gone"),
    (policy({**SERVER_REF, "kind": "HTTPRoute"}, {"kind": "ServiceAccount", "name": "web"}), "HTTPRoute demo/s"),
    (policy(SERVER_REF), "requiredAuthenticationRefs"),
    (manifest("Server demo/odd", {"podSelector": {"matchLabels": {"app": "gone"}}, "port": 80}), "no pod"),
    (manifest("Server demo/odd", {"podSelector": {"matchLabels": {"app": "api"}}, "port": "http"}), "'http'"),
    (
        manifest("ServerAuthorization demo/odd", {"server": {"name": "gone"}, "client": {"unauthenticated": True}}),
        "demo/gone",
    ),
    (
        manifest(
            "ServerAuthorization demo/odd",
            {"server": {"selector": {"matchLabels": {"a": "b"}}}, "client": {"unauthenticated": True}},
        ),
        "no Server",
    ),
    (networks({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.1.2.0/24"]}), "10.1.2.0/24"),
    (networks({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"cidr": "10.1.0.0/16"}), "10.1.0.0/16"),
    (networks({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"cidr": "0.0.0.0/0"}), "10.1.0.0/16"),
    (networks({"cidr": "2001:db8::/32", "except": ["2001:db8:1::/48", "2001:db8:1::1"]}), "2001:db8:1::1"),
    (
        manifest(
            "ServerAuthorization demo/odd",
            {
                "server": {"name": "s"},
                "client": {
                    "unauthenticated": True,
                    "networks": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"cidr": "10.1.0.0/16"}],
                },
            },
        ),
        "10.1.0.0/16",
    ),
    (manifest("MeshTLSAuthentication demo/odd", {"identities": []}), "nobody"),
    (
        manifest("Pod demo/odd", {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 4143}]}]}),
        "port 4143, where the agent listens",
    ),
]


@pytest.mark.parametrize(("odd", "words"), ODD, ids=lambda each: each if isinstance(each, str) else each["kind"])
def test_what_is_legal_and_surely_not_meant_is_a_warning_with_file_and_line(
    typed: Typed, place: Path, odd: Manifest, words: str
) -> None:
    file = write(place / "all.yaml", *SOUND, odd)
    line = file.read_text(encoding="utf-8").splitlines().index("  name: odd") + 1
    done = typed("check", place)
    assert done.code == 0, "warnings alone are no failure"
    (warning,) = [each for each in done.out.splitlines() if ": warning: " in each]
    name, at, _ = warning.split(":", 2)
    assert name == str(file)
    assert line - 3 <= int(at) <= line, "where the object begins"
    assert f"{odd['kind']} demo/odd" in warning
    assert words in warning
    assert done.out.endswith("0 errors, 1 warnings\n")

    done = typed("check", place, "--json")
    assert done.code == 0
    assert done.json["faults"] == []
    (found,) = done.json["warnings"]
    assert found.keys() == {"file", "line", "object", "message"}
    assert (found["file"], found["object"]) == (str(file), f"{odd['kind']} demo/odd")
    assert words in found["message"]


@pytest.mark.parametrize(
    "sound",
    [
        networks({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"cidr": "fd00::/8"}),
        networks({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.0.0/16"]}),
        networks({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"cidr": "10.1.7.0/24"}),
        networks({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"cidr": "0.0.0.0/0", "except": ["10.1.0.0/16"]}),
        manifest("Server demo/other", {"podSelector": {}, "port": 81}),
        manifest("Server demo/other", {"externalWorkloadSelector": {}, "port": 80}),
        manifest("MeshTLSAuthentication demo/other", {"identities": ["*"]}),
        policy(SERVER_REF, {"kind": "ServiceAccount", "name": "nobody-has-a-manifest-of-this"}),
        policy(SERVER_REF, {"group": "policy.linkerd.io", "kind": "MeshTLSAuthentication", "name": "known"}),
        policy(SERVER_REF, {"group": "policy.linkerd.io", "kind": "NetworkAuthentication", "name": "known"}),
    ],
    ids=lambda each: f"{each['kind']} {json.dumps(each['spec'])}",
)
def test_what_is_sound_is_no_warning(typed: Typed, place: Path, sound: Manifest) -> None:
    known = (
        manifest("MeshTLSAuthentication demo/known", {"identities": ["*"]}),
        manifest("NetworkAuthentication demo/known", {"networks": [{"cidr": "10.0.0.0/8"}]}),
    )
    write(place / "all.yaml", *SOUND, *known, sound)
    done = typed("check", place)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{len(SOUND) + len(known) + 1} objects, 0 errors, 0 warnings\n"


def test_two_servers_on_one_port_are_a_warning_for_the_one_that_loses(typed: Typed, place: Path) -> None:
    older = {"metadata": {"creationTimestamp": "2024-01-01T00:00:00Z"}, "spec": TARGET}
    younger = {"metadata": {"creationTimestamp": "2024-01-02T00:00:00Z"}, "spec": {"podSelector": {}, "port": 80}}
    write(place / "all.yaml", API, manifest("Server demo/z", older), manifest("Server demo/a", younger))
    (found,) = typed("check", place, "--json").json["warnings"]
    assert found["object"] == "Server demo/a"
    assert "demo/api" in found["message"]
    assert "80" in found["message"]
    assert "Server z" in found["message"] or "Server demo/z" in found["message"]


def test_the_pods_of_a_deployment_count_as_selected(typed: Typed, place: Path) -> None:
    template = {"metadata": {"labels": {"app": "api"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "api", "namespace": "demo"},
        "spec": {"selector": {"matchLabels": {"app": "api"}}, "template": template},
    }
    write(place / "all.yaml", deployment, *SOUND[1:])
    done = typed("check", place)
    assert (done.code, done.out) == (0, "2 objects, 0 errors, 0 warnings\n")


def test_faults_have_file_and_line_and_end_with_1(typed: Typed, place: Path) -> None:
    write(place / "a.yaml", *SOUND)
    bad = write(place / "b.yaml", manifest("Server demo/bad", {**TARGET, "port": 0}))
    line = next(at for at, text in enumerate(bad.read_text(encoding="utf-8").splitlines(), 1) if "port:" in text)
    done = typed("check", place)
    assert done.code == 1
    assert f"{bad}:{line}: error: Server demo/bad: " in done.out
    assert "1 errors, 0 warnings" in done.out
    done = typed("check", place / "a.yaml", bad, "--json")
    assert done.code == 1
    (fault,) = done.json["faults"]
    assert fault.keys() == {"file", "line", "object", "reason"}
    assert (fault["file"], fault["line"], fault["object"]) == (str(bad), line, "Server demo/bad")
    assert typed("check", place / "a.yaml").code == 0


def test_a_file_that_does_not_exist_is_a_fault_and_none_at_all_is_bad_usage(typed: Typed, place: Path) -> None:
    done = typed("check", place / "none.yaml")
    assert done.code == 1
    assert str(place / "none.yaml") in done.out + done.err
    done = typed("check")
    assert done.code == 2
    assert "authz check" in done.err


IPS = {"web": "10.96.0.1", "api": "10.96.0.2"}


def test_two_services_at_one_external_address_are_an_error_that_names_both(typed: Typed, place: Path) -> None:
    two = [service(name, clusterIP=ip, externalIPs=["198.51.100.9"]) for name, ip in IPS.items()]
    write(place / "a.yaml", *two)
    done = typed("check", place)
    assert done.code == 1
    assert "a.yaml:1: error: Service demo/web: 198.51.100.9, port 80, is Service demo/api's" in done.out


def test_fields_that_nobody_carries_out_are_warnings_with_their_line(typed: Typed, place: Path) -> None:
    hinted = endpoint_slice(endpoint("192.0.2.1", hints={"forZones": [{"name": "east"}]}))
    balanced = {"loadBalancer": {"ingress": [{"hostname": "lb.example.test"}]}}
    write(place / "a.yaml", service("web", internalTraficPolicy="Local", status=balanced), hinted)
    done = typed("check", place)
    assert done.code == 0
    said = [line.partition(" warning: ")[2] for line in done.out.splitlines()]
    assert [words for words in said if "is internalTrafficPolicy meant?" in words]
    assert [words for words in said if "ingress[0].hostname is ignored" in words]
    assert [
        words for words in said if words.startswith("Service demo/web: hints.forZones of its endpoints are ignored")
    ]
    write(place / "b.yaml", node("node-a", zone="east"))
    assert "hints.forZones" not in typed("check", place).out


def test_an_unknown_verb_is_bad_usage(typed: Typed) -> None:
    done = typed("explane")
    assert done.code == 2
    assert "explane" in done.out + done.err
