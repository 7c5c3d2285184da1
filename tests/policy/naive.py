"""policy.md once more, sentence by sentence, over manifests as they are: slow, plain, and of nobody else's making."""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CLUSTER_NETWORKS = ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8")
ANNOTATION = "config.linkerd.io/default-inbound-policy"
DEMAND = "config.linkerd.io/proxy-require-identity-inbound-ports"

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Asker:
    """Who asks: an address, and a SPIFFE ID if it has one; TLS may come without."""

    address: str
    spiffe_id: str | None
    tls: bool


@dataclass(frozen=True)
class Answer:
    """What must come of it: the verdict, every authorization that allows, and every other that was considered."""

    verdict: str
    decided: str
    allowing: frozenset[str]
    lacking: frozenset[str]


class Naive:
    """Manifests and the agent's flags."""

    def __init__(self, manifests: Sequence[Manifest], *, default: str, trust_domain: str, node: Iterable[str]) -> None:
        self.manifests = manifests
        self.default = default
        self.trust_domain = trust_domain
        self.node = list(node)

    def answer(self, asker: Asker, pod_name: str, port: int) -> Answer:
        (pod,) = (each for each in self.of_kind("Pod") if place(each) == pod_name)
        namespace = pod["metadata"]["namespace"]
        server = self.server_of(pod, port)
        named: dict[str, bool] = {}
        demanded = False
        if server is None:
            policy = self.annotated(pod, ANNOTATION, self.default)
            decided = f"default:{policy}"
            stem = "default"
            numbers = self.annotated(pod, DEMAND, "")
            demanded = policy.endswith(("-unauthenticated", "audit")) and any(
                int(each.partition("-")[0]) <= port <= int(each.rpartition("-")[2])
                for each in numbers.split(",")
                if each
            )
        else:
            policy = server["spec"].get("accessPolicy", "deny")
            decided = f"Server {place(server)}"
            stem = "accessPolicy"
            for each in self.of_kind("ServerAuthorization", namespace):
                if self.authorizes(each, server):
                    named[f"ServerAuthorization {place(each)}"] = self.server_authorization_allows(each, asker)
            for each in self.of_kind("AuthorizationPolicy", namespace):
                if targets(each, server):
                    named[f"AuthorizationPolicy {place(each)}"] = self.policy_allows(each, asker)
        if demanded:
            decided += "+require-identity"
            where = policy.partition("-")[0]
            if where != "audit":
                named[decided] = self.default_allows(f"{where}-authenticated", asker)
            elif asker.spiffe_id is None:
                named[DEMAND] = False
        elif policy not in {"deny", "audit"}:
            named[f"{stem}:{policy}"] = self.default_allows(policy, asker)
        if port in probe_ports(pod):
            hosts = [*self.node, *(each["ip"] for each in pod["status"].get("hostIPs", []))]
            named["probe"] = any(within(asker.address, host) for host in hosts)
        allowing = frozenset(name for name, allows in named.items() if allows)
        lacking = frozenset(named) - allowing
        if allowing:
            verdict = "allow"
        elif policy == "audit" and DEMAND not in named:
            verdict = "audit"
        else:
            verdict = "deny"
        return Answer(verdict, decided, allowing, lacking)

    def of_kind(self, kind: str, namespace: str | None = None) -> list[Manifest]:
        return [
            each
            for each in self.manifests
            if each["kind"] == kind and (namespace is None or each["metadata"]["namespace"] == namespace)
        ]

    def find(self, kind: str, namespace: str, name: str) -> Manifest | None:
        return next((each for each in self.of_kind(kind, namespace) if each["metadata"]["name"] == name), None)

    def server_of(self, pod: Manifest, port: int) -> Manifest | None:
        labels = pod["metadata"].get("labels", {})
        candidates = [
            server
            for server in self.of_kind("Server", pod["metadata"]["namespace"])
            if "podSelector" in server["spec"]
            and selects(server["spec"]["podSelector"], labels)
            and port in numbers_of(pod, server["spec"]["port"])
        ]
        # RFC 3339 in one time zone sorts as text does; who has no time stamp is younger than all who have.
        candidates.sort(key=lambda it: (it["metadata"].get("creationTimestamp", "9999"), it["metadata"]["name"]))
        return candidates[0] if candidates else None

    def annotated(self, pod: Manifest, annotation: str, otherwise: str) -> str:
        for namespace in self.of_kind("Namespace"):
            if namespace["metadata"]["name"] == pod["metadata"]["namespace"]:
                otherwise = namespace["metadata"].get("annotations", {}).get(annotation, otherwise)
        found: str = pod["metadata"].get("annotations", {}).get(annotation, otherwise)
        return found

    @staticmethod
    def default_allows(policy: str, asker: Asker) -> bool:
        where, _, who = policy.partition("-")
        if where == "cluster" and not any(within(asker.address, network) for network in CLUSTER_NETWORKS):
            return False
        return who == "unauthenticated" or asker.spiffe_id is not None

    @staticmethod
    def authorizes(authorization: Manifest, server: Manifest) -> bool:
        target = authorization["spec"]["server"]
        if "name" in target:
            return bool(target["name"] == server["metadata"]["name"])
        return selects(target["selector"], server["metadata"].get("labels", {}))

    def server_authorization_allows(self, authorization: Manifest, asker: Asker) -> bool:
        client = authorization["spec"]["client"]
        networks = client.get("networks") or [{"cidr": network} for network in CLUSTER_NETWORKS]
        if not in_networks(asker.address, networks):
            return False
        if client.get("unauthenticated"):
            return True
        mesh = client["meshTLS"]
        if mesh.get("unauthenticatedTLS"):
            return asker.tls
        if any(self.is_named(asker, identity) for identity in mesh.get("identities", [])):
            return True
        own = authorization["metadata"]["namespace"]
        return any(
            self.is_account(asker, account.get("namespace", own), account["name"])
            for account in mesh.get("serviceAccounts", [])
        )

    def policy_allows(self, policy: Manifest, asker: Asker) -> bool:
        return all(
            self.reference_holds(reference, reference.get("namespace", policy["metadata"]["namespace"]), asker)
            for reference in policy["spec"]["requiredAuthenticationRefs"]
        )

    def reference_holds(self, reference: Manifest, namespace: str, asker: Asker) -> bool:
        if reference["kind"] == "ServiceAccount":
            return self.is_account(asker, namespace, reference["name"])
        found = self.find(reference["kind"], namespace, reference["name"])
        if found is None:
            return False
        if reference["kind"] == "NetworkAuthentication":
            return in_networks(asker.address, found["spec"]["networks"])
        if any(self.is_named(asker, identity) for identity in found["spec"].get("identities", [])):
            return True
        return any(
            self.is_of_namespace(asker, each["name"])
            if each["kind"] == "Namespace"
            else self.is_account(asker, each.get("namespace", namespace), each["name"])
            for each in found["spec"].get("identityRefs", [])
        )

    def is_account(self, asker: Asker, namespace: str, name: str) -> bool:
        return asker.spiffe_id == f"spiffe://{self.trust_domain}/ns/{namespace}/sa/{name}"

    def is_of_namespace(self, asker: Asker, namespace: str) -> bool:
        return asker.spiffe_id is not None and asker.spiffe_id.startswith(
            f"spiffe://{self.trust_domain}/ns/{namespace}/sa/"
        )

    def is_named(self, asker: Asker, identity: str) -> bool:
        if asker.spiffe_id is None:
            return False
        if identity == "*":
            return True
        parts = asker.spiffe_id.removeprefix("spiffe://").split("/")
        names = [asker.spiffe_id]
        if len(parts) == 5 and parts[1] == "ns" and parts[3] == "sa":
            name = f"{parts[4]}.{parts[2]}.serviceaccount.identity"
            names += [f"{name}.{self.trust_domain}", f"{name}.linkerd.{self.trust_domain}"]
        if identity.startswith("*"):
            return any(name.endswith(identity[1:]) for name in names[1:])
        return identity in names


def place(manifest: Manifest) -> str:
    return f"{manifest['metadata']['namespace']}/{manifest['metadata']['name']}"


def targets(policy: Manifest, server: Manifest) -> bool:
    target = policy["spec"]["targetRef"]
    if target["kind"] == "Namespace":
        return bool(target["name"] == policy["metadata"]["namespace"])
    return bool(target["kind"] == "Server" and target["name"] == server["metadata"]["name"])


def selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for each in selector.get("matchExpressions", []):
        has, value, values = each["key"] in labels, labels.get(each["key"]), each.get("values", [])
        holds = {
            "In": has and value in values,
            "NotIn": not has or value not in values,
            "Exists": has,
            "DoesNotExist": not has,
        }
        if not holds[each["operator"]]:
            return False
    return True


def numbers_of(pod: Manifest, port: int | str) -> list[int]:
    if isinstance(port, int):
        return [port]
    return [
        each["containerPort"]
        for container in pod["spec"].get("containers", [])
        for each in container.get("ports", [])
        if each.get("name") == port and each.get("protocol", "TCP") == "TCP"
    ]


def probe_ports(pod: Manifest) -> list[int]:
    found = []
    for container in [*pod["spec"].get("containers", []), *pod["spec"].get("initContainers", [])]:
        named = {each.get("name"): each["containerPort"] for each in container.get("ports", [])}
        for which in ("livenessProbe", "readinessProbe", "startupProbe"):
            for how in ("httpGet", "tcpSocket", "grpc"):
                port = container.get(which, {}).get(how, {}).get("port")
                found.append(named.get(port, 0) if isinstance(port, str) else port)
    return found


def within(address: str, network: str) -> bool:
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return parsed in ipaddress.ip_network(network)


def in_networks(address: str, networks: Iterable[Manifest]) -> bool:
    return any(
        within(address, each["cidr"]) and not any(within(address, part) for part in each.get("except", []))
        for each in networks
    )
