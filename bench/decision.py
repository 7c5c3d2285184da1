"""What one decision of policy costs: medians in µs. Run it alone on a quiet machine: `python -m bench.decision`.

Questions to one port of one pod, by how many authorizations the port has, and the same over a whole catalog of 10,000
pods and 2,000 policy objects, where each question is about another pod and another client.
"""

import gc
import ipaddress
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from agent.catalog.snapshot import Catalog
from agent.identity.spiffe import SpiffeId
from agent.objects.model import Pod
from agent.objects.policy import (
    POLICY_GROUP,
    AccountRef,
    AuthorizationPolicy,
    LabelSelector,
    MeshTLSAuthentication,
    NetworkAuthentication,
    NetworkRange,
    PolicyObject,
    Ref,
    Server,
    Target,
    TargetKind,
)
from agent.policy.authorize import authorize
from agent.policy.index import PolicyIndex, PolicySettings
from agent.policy.model import Client, Denial, Permit, PodPort

DOMAIN = "example.test"
PORT = 8080
SIZES = (1, 3, 10, 50)
NAMESPACES, PODS_EACH, SERVERS_EACH = 100, 100, 5
QUESTIONS = 20_000
TOLD = 2_000
BATCH = 20
"""Decisions between two looks at the clock."""


def account(namespace: str, name: str) -> SpiffeId:
    """A workload's identity."""
    return SpiffeId.for_service_account(DOMAIN, namespace, name)


def authorizations(server: str, namespace: str, number: int) -> Iterator[PolicyObject]:
    """Authorizations of every sort in turn; `reader-<n>` is let in by number n, and by no other."""
    target = Target(TargetKind.SERVER, POLICY_GROUP, server)
    for at in range(number):
        name, reader = f"{server}-{at:03}", f"reader-{at}"
        match at % 4:
            case 0:
                mesh = Ref("ServiceAccount", namespace, reader)
            case 1:
                mesh = Ref("MeshTLSAuthentication", namespace, name)
                yield MeshTLSAuthentication(
                    namespace, name, identities=(f"{reader}.{namespace}.serviceaccount.identity.{DOMAIN}",)
                )
            case 2:
                mesh = Ref("MeshTLSAuthentication", namespace, name)
                yield MeshTLSAuthentication(
                    namespace, name, accounts=(AccountRef(namespace, reader), AccountRef("elsewhere", reader))
                )
            case _:
                mesh = Ref("MeshTLSAuthentication", namespace, name)
                yield MeshTLSAuthentication(namespace, name, identities=(str(account(namespace, reader)), "*.none"))
        network = None
        if at % 3 == 1:
            network = Ref("NetworkAuthentication", namespace, name)
            yield NetworkAuthentication(
                namespace, name, (NetworkRange("10.0.0.0/8", (f"10.200.{at}.0/24",)), NetworkRange("fd00::/8"))
            )
        yield AuthorizationPolicy(namespace, name, target, mesh, network)


def one_port(number: int) -> tuple[PolicyIndex, Pod]:
    """A pod whose port has this many authorizations."""
    pod = Pod("shop", "api", "api", "node", ("10.1.0.1",), labels={"app": "api"})
    server = Server("shop", "api", port=PORT, selector=LabelSelector((("app", "api"),)))
    catalog = Catalog(1, (pod,), (), (server, *authorizations("api", "shop", number)))
    return PolicyIndex(catalog, PolicySettings(DOMAIN)), pod


def whole_catalog() -> tuple[PolicyIndex, list[Pod]]:
    """10,000 pods in 100 namespaces, and 2,000 policy objects: five Servers in each, with what authorizes for them."""
    pods: list[Pod] = []
    policies: list[PolicyObject] = []
    for space in range(NAMESPACES):
        namespace = f"ns-{space}"
        for at in range(PODS_EACH):
            labels = {"app": f"app-{at % SERVERS_EACH}", "pod-template-hash": str(at)}
            address = str(ipaddress.ip_address("10.0.0.0") + space * 256 + at)
            pods.append(Pod(namespace, f"pod-{at}", f"reader-{at % 7}", "node", (address,), labels=labels))
        for at in range(SERVERS_EACH):
            policies.append(Server(namespace, f"app-{at}", port=PORT, selector=LabelSelector((("app", f"app-{at}"),))))
            policies.extend(list(authorizations(f"app-{at}", namespace, 5))[:3])
    return PolicyIndex(Catalog(1, tuple(pods), (), tuple(policies)), PolicySettings(DOMAIN)), pods


Ask = Callable[[], Permit | Denial]


def median_us(asks: Sequence[Ask], times: int = QUESTIONS) -> float:
    """The median cost of a question, µs; a batch between two looks at the clock."""
    for ask in asks[:BATCH]:
        ask()
    taken = []
    at = 0
    for _ in range(times // BATCH):
        batch = [asks[(at + each) % len(asks)] for each in range(BATCH)]
        at += BATCH
        began = time.perf_counter_ns()
        for ask in batch:
            ask()
        taken.append((time.perf_counter_ns() - began) / BATCH / 1000)
    return statistics.median(taken)


def asked(index: PolicyIndex, pod: Pod, client: Client) -> Ask:
    """One question, as the data path asks it: the permits, then the decision."""
    port = PodPort(pod.key, PORT)
    return lambda: authorize(port, client, index.permits(pod, PORT))


def _told(index: PolicyIndex, pod: Pod, port: PodPort, client: Client) -> Permit | Denial:
    answer = authorize(port, client, index.permits(pod, PORT))
    if isinstance(answer, Denial):
        _ = answer.message, answer.considered
    return answer


def rows() -> Iterator[tuple[str, float]]:
    """What is measured, one after the other."""
    inside = ipaddress.ip_address("10.1.2.3")
    for number in SIZES:
        index, pod = one_port(number)
        last = account("shop", f"reader-{number - 1}")
        clients = {
            "allow, by the last": Client(inside, last, tls=True),
            "deny, a stranger's identity": Client(inside, account("shop", "nobody"), tls=True),
            "deny, without mTLS": Client(inside, None, tls=False),
        }
        for what, client in clients.items():
            ask = asked(index, pod, client)
            if isinstance(ask(), Permit) is not what.startswith("allow"):
                raise RuntimeError(f"{number} authorizations: {what}: this is not what was decided: {ask()}")
            yield f"{number:3} authorizations: {what}", median_us([ask])
        port, stranger = PodPort(pod.key, PORT), Client(inside, account("shop", "nobody"), tls=True)
        told = partial(_told, index, pod, port, stranger)
        yield f"{number:3} authorizations: deny, and all that the log says of it", median_us([told], TOLD)
        crowd = [asked(index, pod, Client(inside, account("shop", f"crowd-{at}"), tls=True)) for at in range(QUESTIONS)]
        yield f"{number:3} authorizations: an identity that asks for the first time", median_us(crowd)
    began = time.perf_counter()
    index, pods = whole_catalog()
    yield "10,000 pods, 2,000 policies: the index, ms", (time.perf_counter() - began) * 1000
    chance = random.Random(1)  # noqa: S311 - the same questions in each run
    sample: dict[str, list[Ask]] = {"allow": [], "deny": []}
    for _ in range(QUESTIONS):
        pod, other = chance.choice(pods), chance.choice(pods)
        address = ipaddress.ip_address(other.ips[0])
        for identity in (account(pod.namespace, "reader-0"), account(other.namespace, other.service_account), None):
            ask = asked(index, pod, Client(address, identity, tls=identity is not None))
            sample["allow" if isinstance(ask(), Permit) else "deny"].append(ask)
    for what, asks in sample.items():
        yield f"10,000 pods, 2,000 policies: {what} ({len(asks)} questions)", median_us(asks)


def printed(found: Iterator[tuple[str, float]]) -> int:
    """Prints a table as its rows come: what was measured, and how many microseconds it took. Returns 0."""
    gc.collect()
    gc.freeze()
    for what, value in found:
        sys.stdout.write(f"{what:62} {value:8.2f}\n")
        sys.stdout.flush()
    return 0


def main() -> int:
    """Prints the table."""
    return printed(rows())


if __name__ == "__main__":
    sys.exit(main())
