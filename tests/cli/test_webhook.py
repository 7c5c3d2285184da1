"""`quietwire webhook run`: what it is told, and what it says of flags that cannot be used."""

from pathlib import Path
from unittest import mock

import pytest

from agent.webhook.injection import InjectionSettings
from agent.webhook.run import WebhookConfig
from tests.cli.typed import quietwire

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: it
clusters: [{name: it, cluster: {server: "https://192.0.2.1:6443"}}]
users: [{name: it, user: {token: t}}]
contexts: [{name: it, context: {cluster: it, user: it, namespace: mesh}}]
"""


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    file = tmp_path / "config"
    file.write_text(KUBECONFIG)
    return file


def told(*words: str | Path) -> WebhookConfig:
    """The configuration that would be served."""
    with pytest.raises(AssertionError, match="it would serve") as ended, mock.patch("agent.telemetry.logs.configure"):
        quietwire("webhook", "run", *words)
    frames = [frame.frame.f_locals for frame in ended.traceback if "config" in frame.frame.f_locals]
    config: WebhookConfig = frames[-1]["config"]
    return config


def test_without_flags_it_is_found_by_its_service_and_init_waits_where_agents_listen(kubeconfig: Path) -> None:
    config = told("--image", "it:1", "--kubeconfig", kubeconfig)
    assert config.names == ("quietwire-webhook.mesh.svc",)
    assert (config.namespace, config.secret, config.configuration) == ("mesh", "quietwire-webhook", "quietwire-webhook")
    assert config.injection == InjectionSettings(image="it:1")
    assert str(config.listen) == "0.0.0.0:9443"


def test_every_flag_arrives(kubeconfig: Path) -> None:
    config = told(
        *("--image", "it:1", "--image-pull-policy", "Never"),
        *("--enrol-directory", "/run/other/enrol", "--enrol-timeout", "7", "--listen", "[::]:1", "--namespace", "ns"),
        *("--service", "svc", "--name", "a.example", "--name", "b.example", "--secret", "s", "--configuration", "c"),
        *("--kubeconfig", kubeconfig),
    )
    assert config.names == ("svc.ns.svc", "a.example", "b.example")
    assert (config.namespace, config.secret, config.configuration) == ("ns", "s", "c")
    assert config.injection == InjectionSettings(
        image="it:1", pull_policy="Never", enrol_directory="/run/other/enrol", enrol_seconds=7
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--image", ""], "--image is empty"),
        (["--image", "it", "--enrol-directory", "run"], "--enrol-directory must be an absolute path"),
        (["--image", "it", "--enrol-timeout", "0"], "--enrol-timeout above 0"),
        (["--image", "it", "--listen", "9443"], "--listen '9443' is not HOST:PORT"),
        (["--image", "it", "--context", "other"], "other"),
    ],
)
def test_a_flag_that_cannot_be_used_is_named(kubeconfig: Path, words: list[str], said: str) -> None:
    done = quietwire("webhook", "run", *words, "--kubeconfig", kubeconfig)
    assert done.code == 2
    assert said in done.err


def test_a_kubeconfig_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = quietwire("webhook", "run", "--image", "it", "--kubeconfig", tmp_path / "none")
    assert done.code == 2
    assert done.err.startswith(f"quietwire: {tmp_path}/none: there is no such file. Give --kubeconfig FILE")
