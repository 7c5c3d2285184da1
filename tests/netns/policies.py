"""What the scenarios of policy share: manifests in short, clients that try a port, and what `authz explain` says."""

import contextlib
import io
import json
import ssl
import threading
from typing import Any

import pytest

from agent.cli.app import app
from agent.lab.stage import Player
from tests.netns.world import MARKER, Manifest, World

GROUP = "policy.linkerd.io"
DEFAULT_POLICY = "config.linkerd.io/default-inbound-policy"
DENIALS = "quietwire_denials_total"
DECISIONS = "quietwire_authorizations_total"
VERSIONS = (4, 6)
RESET_SECONDS = 5.0
"""Bound of the wait for a reset that policy causes; far above what it takes."""

Ref = dict[str, str]


def server(
    name: str,
    port: int | str,
    *,
    app: str = "server",
    selector: dict[str, Any] | None = None,
    access: str | None = None,
    version: str = "v1beta3",
    labels: dict[str, str] | None = None,
    created: str | None = None,
    namespace: str = "demo",
) -> Manifest:
    """A Server; without a selector it selects the pods labelled `app: app`."""
    chosen = {"podSelector": {"matchLabels": {"app": app}}} if selector is None else selector
    made = _object("Server", name, namespace, {**chosen, "port": port}, version)
    if access is not None:
        made["spec"]["accessPolicy"] = access
    if created is not None:
        made["metadata"]["creationTimestamp"] = created
    made["metadata"]["labels"] = labels or {}
    return made


def policy(name: str, target: str | Ref, *refs: Ref, namespace: str = "demo") -> Manifest:
    """An AuthorizationPolicy for a Server of this name, or for whatever else `target` refers to."""
    to = {"group": GROUP, "kind": "Server", "name": target} if isinstance(target, str) else target
    return _object("AuthorizationPolicy", name, namespace, {"targetRef": to, "requiredAuthenticationRefs": list(refs)})


def mesh_tls(name: str, *identities: str, refs: list[Ref] | None = None, namespace: str = "demo") -> Manifest:
    """A MeshTLSAuthentication: identities, or references to them."""
    spec = {"identities": list(identities)} if refs is None else {"identityRefs": refs}
    return _object("MeshTLSAuthentication", name, namespace, spec)


def network(name: str, *networks: str | dict[str, Any], namespace: str = "demo") -> Manifest:
    """A NetworkAuthentication: networks, where need be as {cidr, except}."""
    spec = {"networks": [{"cidr": each} if isinstance(each, str) else each for each in networks]}
    return _object("NetworkAuthentication", name, namespace, spec)


def server_authorization(name: str, to: str | dict[str, Any], client: dict[str, Any]) -> Manifest:
    """A ServerAuthorization for a Server of this name, or for those that a selector selects."""
    chosen = {"name": to} if isinstance(to, str) else to
    return _object("ServerAuthorization", name, "demo", {"server": chosen, "client": client}, "v1beta1")


def by_mesh(name: str) -> Ref:
    """A reference to a MeshTLSAuthentication."""
    return {"group": GROUP, "kind": "MeshTLSAuthentication", "name": name}


def by_network(name: str) -> Ref:
    """A reference to a NetworkAuthentication."""
    return {"group": GROUP, "kind": "NetworkAuthentication", "name": name}


def account(name: str, namespace: str | None = None) -> Ref:
    """A reference to a service account."""
    return {"kind": "ServiceAccount", "name": name} | ({} if namespace is None else {"namespace": namespace})


def _object(kind: str, name: str, namespace: str, spec: dict[str, Any], version: str = "v1alpha1") -> Manifest:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": f"{GROUP}/{version}", "kind": kind, "metadata": metadata, "spec": spec}


def reaches(world: World, who: Player, address: str, port: int) -> bool:
    """Whether an exchange with an echo server works; anything but that and a reset is an error."""
    try:
        with world.connect(who, address, port) as sock:
            sock.sendall(MARKER)
            answer = sock.recv(100)
    except ConnectionResetError:
        return False
    assert answer == MARKER, f"{who.name} got {answer!r} from {address} port {port}: a denial is a reset"
    return True


def reaches_by_tls(world: World, who: Player, address: str, port: int, tls: ssl.SSLContext, name: str) -> bool:
    """The same for a client that speaks TLS itself; `name` is the server's. To OpenSSL a reset is an EOF."""
    try:
        with (
            world.connect(who, address, port) as raw,
            tls.wrap_socket(raw, server_hostname=name, suppress_ragged_eofs=False) as sock,
        ):
            sock.sendall(MARKER)
            answer = sock.recv(100)
    except (ssl.SSLError, ConnectionResetError):
        return False
    assert answer == MARKER, f"{who.name} got {answer!r} from {address} port {port}: a denial is a reset"
    return True


def is_cut(sock: Any) -> None:
    """Waits until a connection is reset; fails where it is not."""
    sock.settimeout(RESET_SECONDS)
    with pytest.raises(ConnectionResetError):
        sock.recv(100)


def explain(world: World, **asked: Any) -> dict[str, Any]:
    """What `quietwire authz explain --json` says of the running agent; its flags are `from_`, `from_ip`, …"""
    words: list[str] = []
    for name, value in asked.items():
        words += [f"--{name.rstrip('_').replace('_', '-')}", str(value)]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        app(["authz", "explain", *words, "--admin", world.mesh.admin, "--json"], result_action="return_value")
    answer: dict[str, Any] = json.loads(said.getvalue())
    return answer


def decisions(world: World, decider: str) -> dict[tuple[str, str], float]:
    """How often one Server or default policy has decided so far, by verdict and reason."""
    found: dict[tuple[str, str], float] = {}
    for labels, value in world.series(DECISIONS):
        if labels["server"] == decider:
            key = labels["verdict"], labels["reason"]
            found[key] = found.get(key, 0) + value
    return found


class Attempts:
    """One client that tries all the time, and counts what comes of it."""

    def __init__(self, world: World, client: Player, address: str, port: int) -> None:
        self._world, self._client, self._address, self._port = world, client, address, port
        self._stop = threading.Event()
        self.through = 0
        self.reset = 0
        """An agent was there, and refused."""
        self.other = 0
        """Refused by the kernel, or not answered: nobody listens."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def made(self) -> int:
        """How many so far."""
        return self.through + self.reset + self.other

    def _run(self) -> None:
        while not self._stop.wait(0.01):  # paced: this machine has other things to do
            try:
                if reaches(self._world, self._client, self._address, self._port):
                    self.through += 1
                else:
                    self.reset += 1
            except OSError:
                self.other += 1

    def stop(self) -> None:
        """Ends it."""
        self._stop.set()
        self._thread.join(30)
