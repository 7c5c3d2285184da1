"""The demo's six steps on a cluster, told as on a host: what is done, and what was really observed."""

import subprocess
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from agent.cli.demo.story import Step
from agent.lab.wire import Wire
from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.mesh import AGENT, NAMESPACE, Mesh
from tests.kubernetes.shop import PORT, SLEEP, Called, Shop, account, deployment

T = TypeVar("T")
SHOP = "demo"
OUTSIDE = "outside"
NAME = f"api.{SHOP}.svc.cluster.local"
POLICY = "config.linkerd.io/default-inbound-policy"
CHANGE_SECONDS = 20.0
LOOK_SECONDS = 0.2
NOWHERE = '{"spec":{"template":{"spec":{"nodeSelector":{"quietwire.test/nowhere":"true"}}}}}'
EVERYWHERE = '{"spec":{"template":{"spec":{"nodeSelector":{"quietwire.test/nowhere":null}}}}}'


class Story:
    """Plays the steps on a cluster with a mesh; `tell` is called with each step once it is over."""

    def __init__(self, mesh: Mesh, tell: Callable[[Step], None]) -> None:
        self.mesh = mesh
        self.cluster = mesh.cluster
        self._tell = tell
        self.shop = Shop(mesh, SHOP)
        self.outside = Shop(mesh, OUTSIDE)
        self.steps: list[Step] = []

    def set_up(self) -> None:
        """The applications: two that are injected, and a stranger in a namespace that is not."""
        self.shop.open()
        self.outside.apply(account("stranger"), deployment("stranger", node=self.cluster.nodes[1].name, command=SLEEP))
        self.outside.rolled_out("stranger")

    def play(self) -> list[Step]:
        """All steps, in order."""
        marker = f"marker-{uuid.uuid4().hex}"
        with Wire(self.cluster.layout.hub) as wire:
            reached = self.shop.call(f"http://{NAME}:{PORT}/?{marker}")
        self._step(
            "reached",
            f"kubectl exec -n {SHOP} deploy/webapp -- curl -s http://{NAME}:{PORT}/",
            ok=reached.well and bool(self._server_log(self.shop.address("webapp"))),
            status=reached.status,
            body=reached.body.strip()[:80],
            error=reached.error,
            the_server_saw=self._server_log(self.shop.address("webapp"))[-2:],
        )
        self._encrypted(wire, marker)
        self._identities()
        self._stranger_refused()
        self._policy_live()
        self._fail_closed()
        return self.steps

    def _encrypted(self, wire: Wire, marker: str) -> None:
        api = self.shop.address("api")
        segments = wire.segments()
        hellos = [seen.hello for seen in wire.client_hellos() if seen.flow[2:] == (api, PORT)]
        self._step(
            "encrypted",
            "the packets of that request, recorded between the nodes",
            ok=bool(segments) and not wire.contains(marker.encode()) and any(hello.offers_tls13 for hello in hellos),
            segments_with_data=len(segments),
            marker_on_the_wire=wire.contains(marker.encode()),
            client_hellos=[
                {"to": f"{api}:{PORT}", "sni": each.server_name, "tls13": each.offers_tls13} for each in hellos
            ],
        )

    def _identities(self) -> None:
        first, second = (node.name for node in self.cluster.nodes)
        seen = {"outbound": self._closed(second, "outbound"), "inbound": self._closed(first, "inbound")}
        client, server = (f"spiffe://cluster.local/ns/{SHOP}/sa/{name}" for name in ("webapp", "api"))
        self._step(
            "identities",
            "the SPIFFE IDs that both sides saw",
            ok=all((line.get("client_id"), line.get("server_id")) == (client, server) for line in seen.values()),
            webapp_side={key: seen["outbound"].get(key) for key in ("client_id", "server_id", "security")},
            api_side={key: seen["inbound"].get(key) for key in ("client_id", "server_id", "security")},
        )

    def _stranger_refused(self) -> None:
        refused = self._stranger(f"http://{NAME}:{PORT}/")
        denial = self._until(
            lambda: self.mesh.logged(
                self.cluster.nodes[0].name,
                lambda line: line.get("event") == "denied" and line.get("outcome") == "unauthenticated",
            ),
            lambda line: line is not None,
        )
        trace = self._server_log(self.outside.address("stranger"))
        self._step(
            "stranger_refused",
            "a stranger from a namespace that is not injected calls the api",
            ok=not refused.well and denial is not None and not trace,
            curl=refused.error,
            denial=None if denial is None else denial.get("reason"),
            the_server_saw=trace,
        )

    def _policy_live(self) -> None:
        self._annotate(f"{POLICY}=all-unauthenticated")
        marker = f"marker-{uuid.uuid4().hex}"
        with Wire(self.cluster.layout.hub) as wire:
            allowed = self._until(lambda: self._stranger(f"http://{NAME}:{PORT}/?{marker}"), lambda called: called.well)
        held = self._held_open()
        try:
            self._annotate(f"{POLICY}-")
            changed = time.monotonic()
            try:
                held.wait(CHANGE_SECONDS)
                end = f"ended {time.monotonic() - changed:.1f} s after the annotation was changed back"
            except subprocess.TimeoutExpired:
                end = "was still open"
        finally:
            held.kill()
            held.communicate()  # which closes its stdin, too
        again = self._until(lambda: self._stranger(f"http://{NAME}:{PORT}/"), lambda called: not called.well)
        self._step(
            "policy_live",
            f"{POLICY}: all-unauthenticated on the namespace, and back",
            ok=allowed.well and wire.contains(marker.encode()) and end.startswith("ended") and not again.well,
            stranger_while_allowed=allowed.status,
            its_marker_is_seen_by_the_same_capture=wire.contains(marker.encode()),
            its_open_connection=end,
            stranger_afterwards=again.error,
        )

    def _fail_closed(self) -> None:
        marker = f"marker-{uuid.uuid4().hex}"
        self.mesh.kubectl("patch", AGENT, "--type=merge", "-p", NOWHERE)
        self.cluster.wait("-n", NAMESPACE, "--for=delete", "pod", "-l", "app.kubernetes.io/component=agent")
        with Wire(self.cluster.layout.hub) as wire:
            without = self.shop.call(f"http://{NAME}:{PORT}/?{marker}")
            direct = self.shop.call(f"http://{self.shop.address('api')}:{PORT}/?{marker}")
        leaked = wire.contains(marker.encode())
        self.mesh.kubectl("patch", AGENT, "--type=merge", "-p", EVERYWHERE)
        self.mesh.ready(AGENT)
        again = self._until(self.shop.call, lambda called: called.well)
        self._step(
            "fail_closed",
            "the agents are taken from both nodes, then given back",
            ok=not without.well and not direct.well and not leaked and again.well,
            webapp_without_agent=without.error,
            plaintext_on_the_wire=leaked,
            webapp_with_agent_again=again.status,
        )

    def _step(self, key: str, title: str, *, ok: bool, **evidence: Any) -> None:
        step = Step(key, title, ok, evidence)
        self.steps.append(step)
        self._tell(step)

    def _closed(self, node: str, direction: str) -> dict[str, Any]:
        def last() -> dict[str, Any] | None:
            return self.mesh.logged(
                node, lambda line: line.get("event") == "closed" and line.get("direction") == direction
            )

        return self._until(last, lambda line: line is not None) or {}

    def _stranger(self, url: str) -> Called:
        return self.outside.call(url, by="deploy/stranger")

    def _annotate(self, annotation: str) -> None:
        self.shop.kubectl("annotate", "namespace", SHOP, annotation, "--overwrite")

    def _held_open(self) -> "subprocess.Popen[bytes]":
        """A connection of the stranger's that says nothing, and ends when the server's side does."""
        words = ("exec", "-i", "deploy/stranger", "--", "nc", NAME, str(PORT))
        command = self.cluster.kubectl_command("-n", OUTSIDE, *words)
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _server_log(self, client: str) -> list[str]:
        """What the application logged of a client's address, which the mesh keeps."""
        lines = self.shop.kubectl("logs", "deploy/api", "-c", "api").splitlines()
        return [line for line in lines if f"{client}]" in line]

    @staticmethod
    def _until(attempt: Callable[[], T], good: Callable[[T], bool]) -> T:
        deadline = time.monotonic() + CHANGE_SECONDS
        while True:
            got = attempt()
            if good(got) or time.monotonic() > deadline:
                return got
            time.sleep(LOOK_SECONDS)


def explore(cluster: Cluster) -> str:
    """What one may look at while it is there."""
    return f"""
To explore (`{" ".join(cluster.kubectl_command()[:-1])}` is kubectl):
  kubectl exec -n {SHOP} deploy/webapp -- curl -s http://{NAME}:{PORT}/
  kubectl get pods -n {SHOP} -o wide;  kubectl logs -n {NAMESPACE} {AGENT}
"""
