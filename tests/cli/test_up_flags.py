"""The flags of `quietwire up`: each fault is named, with what to give instead."""

import re
from pathlib import Path

import pytest

from tests.cli.typed import quietwire


def test_the_top_level_help_names_every_verb() -> None:
    said = quietwire("--help").out
    for verb in ("up", "demo", "init"):
        assert re.search(rf"^\W*{verb}\s", said, re.MULTILINE), said


@pytest.mark.parametrize("verb", ["up", "demo"])
def test_help_has_an_example(verb: str) -> None:
    done = quietwire(verb, "--help")
    assert done.code == 0
    assert f"Example: quietwire {verb}" in " ".join(done.out.split())


@pytest.mark.parametrize("words", [["upp"], ["up", "--workers", "many"], ["up", "--egress-mode", "never"]])
def test_usage_errors_are_no_tracebacks(words: list[str]) -> None:
    done = quietwire(*words)
    assert done.code != 0
    assert words[-1] in done.out + done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--outbound-port", "0"], "--outbound-port 0 must be 1 to 65445"),
        (["--inbound-port", "65446"], "--inbound-port 65446 must be 1 to 65445"),
        (["--inbound-port", "4140"], "--outbound-port and --inbound-port are both 4140"),
    ],
)
def test_ports_that_the_agent_cannot_listen_on_are_named(words: list[str], said: str, tmp_path: Path) -> None:
    done = quietwire("up", "--manifests", tmp_path, *words)
    assert done.code == 2
    assert said in done.err


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: me}}]
clusters: [{name: here, cluster: {server: "https://192.0.2.100:6443"}}]
users: [{name: me, user: {token: secret}}]
"""


def agent_in_a_cluster(tmp_path: Path, *words: str) -> str:
    flags = {"--state": tmp_path / "state", "--run-dir": tmp_path / "run", "--svid-source": f"files:{tmp_path}"}
    done = quietwire("agent", *words, *(f"{name}={given}" for name, given in flags.items()), "--workers=0")
    assert done.code == 2
    return done.err


def test_a_kubeconfig_says_which_cluster_and_a_context_which_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(KUBECONFIG)
    assert "--workers 0 must be" in agent_in_a_cluster(tmp_path, f"--kubeconfig={file}"), "all else is well"
    said = agent_in_a_cluster(tmp_path, f"--kubeconfig={file}", "--context=there")
    assert "--kubernetes" in said
    assert "there" in said
    assert "here" in said, "what there is"


def test_beside_linkerd_is_about_a_cluster(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(KUBECONFIG)
    assert "--workers 0 must be" in agent_in_a_cluster(tmp_path, f"--kubeconfig={file}", "--beside-linkerd")
    assert "give --kubernetes as well" in agent_in_a_cluster(tmp_path, "--beside-linkerd")


def test_two_ways_to_join_are_one_too_many(tmp_path: Path) -> None:
    said = quietwire(
        "agent", "--authority=192.0.2.1:8443", f"--join-token-file={tmp_path}/a", f"--token-file={tmp_path}/b"
    )
    assert said.code == 2
    assert "--join-token-file and --token-file are two ways to join" in said.err


def test_without_a_kubeconfig_the_cluster_is_that_of_the_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    said = agent_in_a_cluster(tmp_path, "--kubernetes")
    assert f"{tmp_path}/none" in said
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.100")
    assert "serviceaccount/token" in agent_in_a_cluster(tmp_path, "--kubernetes"), "it has none: this is no pod"


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--manifests", "/no/such/directory", "--manifests /no/such/directory is no directory"),
        ("--trust-domain", "Upper.Case", "--trust-domain 'Upper.Case'"),
        ("--admin", "localhost", "--admin 'localhost' is not HOST:PORT"),
        ("--workers", "0", "--workers 0 must be 1 to 256"),
        ("--cluster-networks", "10.0.0.0/99", "--cluster-networks"),
        ("--svid-ttl", "soon", "--svid-ttl 'soon' is no duration"),
        ("--drain-timeout", "-1", "--drain-timeout must not be negative"),
        ("--default-inbound-policy", "everybody", "--default-inbound-policy"),
    ],
)
def test_a_wrong_flag_is_named(tmp_path: Path, flag: str, value: str, words: str) -> None:
    flags = {"--manifests": str(tmp_path), "--state": str(tmp_path / "state"), "--run-dir": str(tmp_path / "run")}
    done = quietwire("up", *(f"{name}={given}" for name, given in (flags | {flag: value}).items()))
    assert done.code != 0
    assert words in done.out + done.err
