"""What a cluster said last, on disk: of this server alone, and nothing of what is damaged."""

import logging
from pathlib import Path

import pytest

from agent.catalog.sources.kubernetes.remembered import ClusterMemory
from agent.catalog.sources.kubernetes.standing import Held
from agent.objects.decode import RawNamespace, RawPod
from agent.objects.decode_services import RawService, RawSlice
from agent.objects.key import ObjectKey
from agent.objects.model import Node, Pod
from agent.objects.policy import BrokenServer

HELD = {
    ObjectKey("Namespace", "", "demo"): Held(RawNamespace("demo", {"linkerd.io/inject": "enabled"}), "u-1"),
    ObjectKey("Node", "", "n1"): Held(Node("n1", "zone-a", ("192.0.2.9",)), "u-2"),
    ObjectKey("Pod", "demo", "api"): Held(
        RawPod(Pod("demo", "api", "api", "n1", ("192.0.2.1",), uid="u-3", published=True), {}, True),
        "u-3",
        started="2026-11-30T00:00:00Z",
    ),
    ObjectKey("Service", "demo", "api"): Held(RawService("demo", "api", ("198.51.100.1",)), "u-4"),
    ObjectKey("EndpointSlice", "demo", "api-x"): Held(RawSlice("demo", "api"), "u-5"),
    ObjectKey("Server", "demo", "api"): Held(BrokenServer("demo", "api"), "u-6", stand_in=True),
}


def test_every_kind_comes_back_as_it_was(tmp_path: Path) -> None:
    assert ClusterMemory(tmp_path / "known", "https://192.0.2.100:6443").load() == {}
    assert ClusterMemory(tmp_path / "known", "https://192.0.2.100:6443").save(HELD)
    assert ClusterMemory(tmp_path / "known", "https://192.0.2.100:6443").load() == HELD


def test_what_another_server_said_is_not_believed(tmp_path: Path) -> None:
    assert ClusterMemory(tmp_path / "known", "https://192.0.2.100:6443").save(HELD)
    assert ClusterMemory(tmp_path / "known", "https://192.0.2.101:6443").load() == {}


def test_what_is_damaged_is_named_and_what_follows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "known"
    assert ClusterMemory(path, "s").save(HELD)
    path.write_bytes(path.read_bytes()[:-1])
    assert ClusterMemory(path, "s").load() == {}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "no pod is served before the API server answers" in record.getMessage()
