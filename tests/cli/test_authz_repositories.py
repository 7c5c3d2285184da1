"""`quietwire authz …` on the manifests of a repository: controllers and no pods, faults, and what a stranger wrote."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_authz import Typed, place, pods, typed, write
from tests.policy.world import Manifest, manifest

__all__ = ["place", "pods", "typed"]  # fixtures, for pytest to find

DEFAULT_POLICY = "config.linkerd.io/default-inbound-policy"
TARGET = {"group": "policy.linkerd.io", "kind": "Server", "name": "cart"}
POLICY = (
    manifest("Server shop/cart", {"podSelector": {"matchLabels": {"app": "cart"}}, "port": "http"}),
    manifest(
        "AuthorizationPolicy shop/web",
        {"targetRef": TARGET, "requiredAuthenticationRefs": [{"kind": "ServiceAccount", "name": "web"}]},
    ),
)


def controller(kind: str, name: str, *, account: str = "", probe: bool = False, policy: str = "") -> Manifest:
    """A controller with one pod in its template."""
    container: dict[str, Any] = {"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}
    if probe:
        container["readinessProbe"] = {"httpGet": {"port": "http"}}
    template: dict[str, Any] = {
        "metadata": {"labels": {"app": name}, "annotations": {DEFAULT_POLICY: policy} if policy else {}},
        "spec": {"serviceAccountName": account or name, "containers": [container]},
    }
    spec: dict[str, Any] = {"template": template}
    if kind == "CronJob":
        spec = {"jobTemplate": {"spec": spec}}
    return {"apiVersion": "-", "kind": kind, "metadata": {"name": name, "namespace": "shop"}, "spec": spec}


def cases(path: Path, *those: dict[str, Any]) -> Path:
    path.write_text(json.dumps(those), encoding="utf-8")
    return path


WEB_TO_CART = {"from": "shop/web", "to": "shop/cart", "port": "http", "expect": "allow"}
NIGHTLY_TO_CART = {"from": "shop/nightly", "to": "shop/cart", "port": 8080, "expect": "deny"}


# controllers stand for their pods


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"])
def test_policy_tests_run_on_manifests_that_have_controllers_and_no_pods(
    typed: Typed, place: Path, tmp_path: Path, kind: str
) -> None:
    write(place / "all.yaml", controller(kind, "web"), controller("Deployment", "cart"), *POLICY)
    write(place / "nightly.yaml", controller("CronJob", "nightly"))
    done = typed("test", cases(tmp_path / "t.json", WEB_TO_CART, NIGHTLY_TO_CART), "--manifests", place)
    assert (done.code, done.out, done.err) == (0, "2 cases, 0 differ\n", "")
    answer = typed.explain("--from", "shop/web", "--to", "shop/cart", "--port", "http", manifests=place)
    assert answer["authorization"] == "AuthorizationPolicy shop/web"


def test_a_controllers_pod_inherits_from_its_namespace_as_any_pod_does(typed: Typed, place: Path) -> None:
    annotated = {"metadata": {"annotations": {DEFAULT_POLICY: "all-unauthenticated"}}}
    write(place / "all.yaml", manifest("Namespace shop", annotated), controller("Deployment", "cart"))
    words = ("--from-ip", "192.0.2.1", "--to", "shop/cart", "--port", "80")
    assert typed.explain(*words, manifests=place)["server"] == "default:all-unauthenticated"


def test_a_real_pod_comes_first_and_then_the_first_controller_of_a_name(typed: Typed, place: Path) -> None:
    real = manifest("Pod shop/web", {"spec": {"serviceAccountName": "real"}, "status": {"podIP": "10.1.0.1"}})
    others = controller("StatefulSet", "cart", account="other"), controller("Deployment", "web")
    write(place / "all.yaml", controller("Deployment", "cart"), *others, real, *POLICY)

    def verdict(source: str) -> Any:
        return typed.explain("--from", source, "--to", "shop/cart", "--port", "8080", manifests=place)["verdict"]

    assert verdict("shop/web") == "deny", "the pod of that name runs under another account"
    assert verdict("shop/deployment-web") == "allow"
    answer = typed.explain("--from", "shop/web", "--to", "shop/statefulset-cart", "--port", "http", manifests=place)
    assert answer["server"] == "Server shop/cart", "both carts are selected"


@pytest.mark.parametrize("verb", ["test", "explain"])
def test_help_says_how_controllers_are_called(typed: Typed, verb: str) -> None:
    done = typed(verb, "--help")
    said = " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.out).split())
    assert "Deployment" in said
    assert "shop/deployment-web" in said


# faults


def break_one(place: Path) -> None:
    write(place / "all.yaml", controller("Deployment", "web"), controller("Deployment", "cart"), *POLICY)
    write(place / "bad.yaml", manifest("Server shop/other", {"podSelector": {}, "port": 99999}))


def test_policy_tests_fail_where_a_manifest_has_a_fault(typed: Typed, place: Path, tmp_path: Path) -> None:
    break_one(place)
    file = cases(tmp_path / "t.json", WEB_TO_CART)
    done = typed("test", file, "--manifests", place)
    assert done.code == 1
    assert done.out == "1 cases, 0 differ, 1 faults in the manifests\n"
    assert f"{place / 'bad.yaml'}:" in done.err
    assert "99999" in done.err
    assert "--allow-faults" in done.err

    done = typed("test", file, "--manifests", place, "--allow-faults")
    assert done.code == 0
    assert "99999" in done.err, "it is said all the same"
    assert "--allow-faults" not in done.err

    done = typed("test", file, "--manifests", place, "--json")
    assert done.code == 1
    (fault,) = done.json["faults"]
    assert fault["object"] == "Server shop/other"
    assert typed("test", file, "--manifests", place, "--allow-faults", "--json").code == 0


def test_what_differs_fails_whether_or_not_faults_are_accepted(typed: Typed, place: Path, tmp_path: Path) -> None:
    break_one(place)
    file = cases(tmp_path / "t.json", {**WEB_TO_CART, "expect": "deny"})
    assert typed("test", file, "--manifests", place, "--allow-faults").code == 1


def test_a_fault_in_a_controllers_template_is_one_like_any_other(typed: Typed, place: Path, tmp_path: Path) -> None:
    odd = controller("Deployment", "cart", policy="open")
    file = write(place / "all.yaml", controller("Deployment", "web"), odd)
    line = next(at for at, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1) if ": open" in text)
    done = typed("check", place)
    assert done.code == 1
    assert f"{file}:{line}: error: Deployment shop/cart: " in done.out
    done = typed("test", cases(tmp_path / "t.json", {**WEB_TO_CART, "expect": "deny"}), "--manifests", place)
    assert done.code == 1
    assert done.out == "1 cases, 0 differ, 1 faults in the manifests\n", "it is closed while it is not understood"


# probes


def test_a_server_on_a_probes_port_is_a_warning(typed: Typed, place: Path) -> None:
    carts = [controller(kind, "cart", probe=True) for kind in ("Deployment", "StatefulSet", "DaemonSet", "Job")]
    file = write(place / "all.yaml", *carts, *POLICY)
    (warning,) = typed("check", place, "--json").json["warnings"]
    assert (warning["file"], warning["object"]) == (str(file), "Server shop/cart")
    assert "port 8080" in warning["message"]
    assert "shop/cart, shop/statefulset-cart, shop/daemonset-cart and 1 more" in warning["message"]
    assert "the node's own addresses" in warning["message"]
    write(place / "all.yaml", *carts[:3], *POLICY)
    (warning,) = typed("check", place, "--json").json["warnings"]
    assert "port 8080 of shop/cart, shop/statefulset-cart, shop/daemonset-cart is a probe's" in warning["message"]
    write(place / "all.yaml", controller("Deployment", "cart"), *POLICY)
    assert typed("check", place, "--json").json["warnings"] == []


# what a stranger wrote


def controls(text: str) -> list[str]:
    return [char for char in text if char != "\n" and not char.isprintable()]


def test_no_control_character_of_a_manifest_or_a_case_reaches_the_terminal(
    typed: Typed, place: Path, tmp_path: Path
) -> None:
    evil = "\x1b]0;owned\x07\x1b[31m\u202eServer"
    write(place / "all.yaml", manifest("Namespace shop", {}), controller("Deployment", "cart"))
    bad = {"apiVersion": "policy.linkerd.io/v1beta3", "metadata": {"name": "x", "namespace": "shop"}}
    write(place / "bad.yaml", {**bad, "kind": evil, "spec": {}}, {**bad, "kind": "Server", "spec": {"port": evil}})
    outputs = [typed("check", place)]
    file = cases(
        tmp_path / "t.json", {"from": evil, "to": f"shop/{evil}", "port": 80, "expect": "deny", "because": evil}
    )
    outputs.append(typed("test", file, "--manifests", place))
    outputs.append(typed("explain", "--from", evil, "--to", "shop/cart", "--port", "80", "--manifests", place))
    outputs.append(typed("test", cases(tmp_path / "u.json", {evil: 1}), "--manifests", place))
    for done in outputs:
        assert done.code != 0
        assert controls(done.out + done.err) == []
        assert "owned" in done.out + done.err, "it is shown, escaped"


@pytest.mark.parametrize(
    ("file", "text", "decides"),
    [
        ("torn.yaml", "{{{ torn: [", "a policy that cannot be read, in "),
        ("bad.yaml", json.dumps(manifest("Server demo/bad", {"port": 80})), "Server demo/bad"),
    ],
)
def test_a_policy_that_cannot_be_read_closes_what_it_would_close_for_an_agent_that_starts(
    typed: Typed, pods: Path, file: str, text: str, decides: str
) -> None:
    asked = ["explain", "--from", "demo/two", "--to", "demo/one", "--port", "80", "--manifests", str(pods), "--json"]
    assert typed(*asked).json["verdict"] == "allow"
    (pods / file).write_text(text)
    done = typed(*asked)
    assert f"{pods / file}:1: " in done.err
    assert "what it should decide is denied" in done.err
    assert done.json["verdict"] == "deny"
    assert done.json["server"].startswith(decides)
    assert "until that is mended" in done.json["reason"]
    assert "AuthorizationPolicy" not in done.json["reason"], "which would not help"


# annotations


def test_what_annotations_ask_for_and_do_not_get_is_a_warning_with_file_and_line(typed: Typed, place: Path) -> None:
    cart = controller("Deployment", "cart", policy="deny")
    cart["metadata"]["annotations"] = {DEFAULT_POLICY: "deny"}
    cart["spec"]["template"]["metadata"]["annotations"]["config.linkerd.io/proxy-uid"] = "2102"
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "cart", "namespace": "shop"}, "spec": {}}
    service["metadata"] = {**cart["metadata"], "annotations": {"retry.linkerd.io/http": "5xx"}}
    file = write(place / "all.yaml", cart, service)
    lines = file.read_text(encoding="utf-8").splitlines()

    def line_of(words: str) -> int:
        return next(at for at, text in enumerate(lines, 1) if words in text)

    done = typed("check", place)
    assert done.code == 0
    warned = [each.split(": ")[:4] for each in done.out.splitlines()[:-1]]
    assert warned == [
        [f"{file}:{line_of(words)}", "warning", name, said]
        for words, name, said in (
            (DEFAULT_POLICY, "Deployment shop/cart", f"{DEFAULT_POLICY} has no meaning on a Deployment"),
            ("proxy-uid", "Deployment shop/cart", "config.linkerd.io/proxy-uid has no meaning here"),
            ("retry", "Service shop/cart", "retry.linkerd.io/http has no meaning here"),
        )
    ]
    assert [each["line"] for each in typed("check", place, "--json").json["warnings"]] == [
        line_of(DEFAULT_POLICY),
        line_of("proxy-uid"),
        line_of("retry"),
    ]


def test_a_slip_of_an_annotation_that_keeps_somebody_out_is_an_error(typed: Typed, place: Path) -> None:
    cart = controller("Deployment", "cart")
    cart["spec"]["template"]["metadata"]["annotations"] = {"config.linkerd.io/default-inbound-polcy": "deny"}
    write(place / "all.yaml", cart)
    done = typed("check", place)
    assert done.code == 1
    assert f"and {DEFAULT_POLICY} is surely meant" in done.out


@pytest.mark.parametrize("name", ["", "Not A Name"])
def test_a_controller_without_a_usable_name_is_an_error(typed: Typed, place: Path, name: str) -> None:
    write(place / "all.yaml", controller("Deployment", name), controller("Deployment", "web"))
    done = typed("check", place)
    assert done.code == 1
    assert "no DNS name (RFC 1123)" in done.out
