"""Installed by helm on a cluster of its own: authority and agents run, pods speak by them, and nothing is left.

In a namespace that is not the default one, so that nothing goes by its name; under an issuer that is given, as by
cert-manager (the cluster of all other scenarios has an issuer of its own).
"""

import base64
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from agent.authority import ca
from agent.authority.kubernetes.bundle_maps import NAME
from agent.identity.spiffe import SpiffeId
from deploy.helm.__main__ import CHART
from deploy.image import build
from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.cluster.images import BASE_IMAGE
from tests.tls.pki import Pki

MESH, DEMO = "mesh", "demo"
WHERE = ("--namespace", MESH)
SECONDS = 120
AGENT, AUTHORITY = "daemonset/quietwire-agent", "deployment/quietwire-authority"
URL = "http://api.demo.svc.cluster.local:8080/"
POLICY = "policy.linkerd.io"
TRUST_DOMAIN = "cluster.local"
ISSUER = "issuer"


class Issuer:
    """An issuer as cert-manager keeps it: in a Secret, which it renews in place."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self._cluster = cluster
        self._directory = directory
        self._pki = Pki(TRUST_DOMAIN)

    def write(self) -> None:
        """The Secret of kubernetes.io/tls, and what cert-manager adds."""
        self._pki.write_issuer(self._directory)
        data = {each.name: base64.b64encode(each.read_bytes()).decode() for each in self._directory.glob("*.*")}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": ISSUER}, "type": "kubernetes.io/tls"}
        self._cluster.kubectl("apply", *WHERE, "--server-side", "-f", "-", given=json.dumps({**secret, "data": data}))

    def renew(self) -> None:
        """Another certificate with another key, under the same root."""
        self._pki.issuer = ca.new_issuer(self._pki.root, TRUST_DOMAIN, time.time())
        self.write()

    @property
    def certificate(self) -> x509.Certificate:
        """The newest."""
        return self._pki.issuer.certificate


@pytest.fixture(scope="module")
def own(another_cluster: Callable[[str], Cluster]) -> Iterator[Cluster]:
    """Two nodes, with our image and nothing else."""
    made = another_cluster("i")
    try:
        made.up()
        made.load_everywhere(build.make(lambda _: None).archive)
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def before(own: Cluster) -> set[str]:
    """What there is before anything is installed."""
    return cluster_wide(own)


@pytest.fixture(scope="module")
def issuer(own: Cluster, before: set[str], tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    """What is there before the mesh."""
    own.kubectl("create", "namespace", MESH)
    made = Issuer(own, tmp_path_factory.mktemp(ISSUER))
    made.write()
    return made


@pytest.fixture(scope="module")
def mesh(own: Cluster, issuer: Issuer) -> Cluster:
    """With agents and authority running, which have met."""
    own.helm(
        "install",
        "quietwire",
        str(CHART),
        *WHERE,
        "--set",
        f"crds.keep=false,agent.accessLog=true,authority.issuerSecret={ISSUER}",
    )
    ready(own, AUTHORITY)
    publish(own)
    ready(own, AGENT)
    return own


def ready(cluster: Cluster, what: str) -> None:
    cluster.rolled_out(MESH, what)


def authority(cluster: Cluster, *words: str) -> str:
    """What an operator's command prints in one of the authority's pods."""
    command = ("quietwire", "authority", *words, "--kubernetes", "--namespace", MESH)
    return cluster.kubectl("exec", "-n", MESH, AUTHORITY, "--", *command)


def publish(cluster: Cluster) -> None:
    """The bundle, where agents wait for it."""
    bundle = {"ca.crt": authority(cluster, "bundle", "--pem")}
    published = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "quietwire-bundle"}, "data": bundle}
    cluster.kubectl("apply", "-n", MESH, "--server-side", "--force-conflicts", "-f", "-", given=json.dumps(published))


def a_pod(name: str, node: str, *command: str) -> dict[str, Any]:
    """One whose init step hands it over to the agent, as where no CNI and no webhook does so."""
    spec = {
        "nodeName": node,
        "serviceAccountName": name,
        "terminationGracePeriodSeconds": 1,
        "initContainers": [
            {
                "name": "quietwire-init",
                "image": f"{build.REPOSITORY}:{build.version()}",
                "args": ["init", "apply", "--enrol", "--pod", f"{DEMO}/{name}"],
                "securityContext": {"readOnlyRootFilesystem": True, "privileged": True},
                "volumeMounts": [
                    {"name": "run", "mountPath": "/run"},
                    {"name": "enrol", "mountPath": "/run/quietwire/enrol", "readOnly": True},
                ],
            }
        ],
        "containers": [{"name": "main", "image": BASE_IMAGE, "command": list(command)}],
        "volumes": [
            {"name": "run", "emptyDir": {"medium": "Memory"}},
            {"name": "enrol", "hostPath": {"path": "/run/quietwire/enrol", "type": "Directory"}},
        ],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


@pytest.fixture(scope="module")
def demo(mesh: Cluster) -> Cluster:
    """An API on one node and a client on the other, in an injected namespace."""
    mesh.kubectl("create", "namespace", DEMO)
    mesh.kubectl("annotate", "namespace", DEMO, "linkerd.io/inject=enabled")
    for account in ("api", "webapp"):
        mesh.kubectl("create", "serviceaccount", "-n", DEMO, account)
    serve = "echo hello >/tmp/index.html; exec httpd -f -p 8080 -h /tmp"
    service = {"selector": {"app": "api"}, "ports": [{"port": 8080}]}
    objects = [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "api"}, "spec": service},
        a_pod("api", "n1", "sh", "-c", serve),
        a_pod("webapp", "n2", "sleep", "100000"),
    ]
    mesh.kubectl("apply", "-n", DEMO, "-f", "-", given="\n---\n".join(map(json.dumps, objects)))
    mesh.wait("-n", DEMO, "--for=condition=Ready", "pod", "--all")
    return mesh


def curl(cluster: Cluster) -> str:
    again = ("--retry", "30", "--retry-delay", "1", "--retry-all-errors")
    return cluster.kubectl("exec", "-n", DEMO, "webapp", "--", "curl", "-sS", "--max-time", "10", *again, URL).strip()


def cluster_wide(cluster: Cluster) -> set[str]:
    """What there is beside what is in namespaces, and what in the mesh's own."""
    resources = cluster.kubectl("api-resources", "--namespaced=false", "--verbs=list", "-o", "name").split()
    asked = ",".join(sorted(set(resources) - {"componentstatuses"}))
    shown = "jsonpath={range .items[*]}{.kind}{' '}{.metadata.name}{'\\n'}{end}"
    return set(cluster.kubectl("get", asked, "-o", shown).splitlines())


def test_init_steps_that_wait_are_not_named_as_beyond_capture_and_net_raw_is_named_once(demo: Cluster) -> None:
    """They have given up NET_ADMIN by then; and NET_RAW, which the runtime gives to every container, is no news."""
    logs = demo.kubectl("logs", "-n", MESH, "-l", "app.kubernetes.io/component=agent", "--tail=-1", "--prefix")
    said = [line for line in logs.splitlines() if "capture cannot hold" in line]
    assert len({line.split("]")[0] for line in said}) == len(said), "by each agent once"
    assert all("NET_RAW" in line and "NET_ADMIN)" not in line for line in said), said


def test_an_agent_of_every_node_has_joined_an_authority_of_three_replicas(mesh: Cluster) -> None:
    replicas = mesh.kubectl("get", "-n", MESH, AUTHORITY, "-o", "jsonpath={.status.readyReplicas}")
    assert replicas == "3"
    assert [line.split()[:2] for line in authority(mesh, "agents").splitlines()] == [["n1", "joined"], ["n2", "joined"]]


def test_a_pod_calls_a_service_of_another_node_by_mutual_tls_under_both_service_accounts(demo: Cluster) -> None:
    assert curl(demo) == "hello"
    closed = next(
        json.loads(line) for line in agents_say(demo) if '"event":"closed"' in line and '"direction":"outbound"' in line
    )
    assert (closed["pod"], closed["security"], closed["outcome"]) == (f"{DEMO}/webapp", "mtls", "completed")
    assert closed["client_id"] == "spiffe://cluster.local/ns/demo/sa/webapp"
    assert closed["server_id"] == "spiffe://cluster.local/ns/demo/sa/api"


def agents_say(cluster: Cluster) -> Iterator[str]:
    """The logs of all agents, and what is added to them."""
    of = ("-n", MESH, "-l", "app.kubernetes.io/component=agent")
    words = cluster.kubectl_command("logs", *of, "--tail=-1", "--follow")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        try:
            yield from following.stdout
        finally:
            following.terminate()


def test_an_upgrade_rolls_every_agent_and_pods_speak_afterwards(demo: Cluster) -> None:
    former = set(demo.kubectl("get", "pods", "-n", MESH, "-o", "name").split())
    demo.helm(
        "upgrade",
        "quietwire",
        str(CHART),
        *WHERE,
        "--reuse-values",
        "--set",
        "agent.logLevel=debug,authority.logLevel=debug",
    )
    ready(demo, AUTHORITY)
    ready(demo, AGENT)
    now = set(demo.kubectl("get", "pods", "-n", MESH, "--field-selector=status.phase=Running", "-o", "name").split())
    assert len(now - former) == 5
    assert curl(demo) == "hello"


def presented(cluster: Cluster) -> list[x509.Certificate]:
    """The chain that `api` shows whoever dials it as the mesh does."""
    address = cluster.kubectl("get", "pod", "-n", DEMO, "api", "-o", "jsonpath={.status.podIP}")
    name = SpiffeId.for_service_account(TRUST_DOMAIN, DEMO, "api").dns_name
    dial = ("openssl", "s_client", "-showcerts", "-connect", f"{address}:8080", "-servername", str(name))
    words = [*cluster.inside(cluster.nodes[0]), *dial]
    said = subprocess.run(words, input=b"", capture_output=True, check=False, timeout=30).stdout
    found = re.findall(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", said, re.DOTALL)
    return x509.load_pem_x509_certificates(b"\n".join(found)) if found else []


def test_an_issuer_that_is_renewed_in_its_secret_signs_from_then_on_and_no_call_fails(
    demo: Cluster, issuer: Issuer
) -> None:
    """The kubelet looks at a pod's Secrets once a minute, and whenever the pod changes: it is annotated here."""
    assert issuer.certificate in presented(demo)
    once = f"curl -s -o /dev/null -w '%{{http_code}} ' --max-time 5 {URL}; sleep 0.05"
    loop = ("exec", "-n", DEMO, "webapp", "--", "sh", "-c", f"until test -e /tmp/enough; do {once}; done")
    with subprocess.Popen(demo.kubectl_command(*loop), stdout=subprocess.PIPE, text=True) as calls:
        issuer.renew()
        renewed = time.monotonic()
        while issuer.certificate not in presented(demo):
            assert time.monotonic() < renewed + SECONDS
            said = f"looked-at={time.monotonic_ns()}"
            demo.kubectl("annotate", "pod", *WHERE, "-l", "app.kubernetes.io/component=authority", "--overwrite", said)
        assert curl(demo) == "hello"
        demo.kubectl("exec", "-n", DEMO, "webapp", "--", "touch", "/tmp/enough")
        answers = calls.communicate(timeout=30)[0].split()
    assert len(answers) > 20
    assert set(answers) == {"200"}


BROKEN = {
    "apiVersion": f"{POLICY}/v1beta3",
    "kind": "Server",
    "metadata": {"name": "broken"},
    "spec": {"podSelector": {}, "port": 9090, "acessPolicy": "deny"},
}


def test_an_object_that_no_webhook_saw_and_that_cannot_be_used_has_an_event_that_says_why(demo: Cluster) -> None:
    """And is there to be said of: the definition has not pruned the slip."""
    apply = demo.kubectl_command("apply", "-n", DEMO, "-f", "-")
    seen = subprocess.run(apply, input=json.dumps(BROKEN), capture_output=True, text=True, check=False, timeout=60)
    assert "acessPolicy" in seen.stderr
    demo.kubectl("delete", "validatingwebhookconfigurations", "--all")
    for _ in range(100):  # the API server hears of it a little later
        if not subprocess.run(apply, input=json.dumps(BROKEN), capture_output=True, text=True, check=False).returncode:
            break
    only = "--field-selector=reason=CannotBeUsed,involvedObject.name=broken"
    watching = ("-n", DEMO, "get", "events", only, "--watch", "-o", "custom-columns=:reason,:message", "--no-headers")
    with subprocess.Popen(demo.kubectl_command(*watching), stdout=subprocess.PIPE, text=True) as events:
        assert events.stdout is not None
        said = next(line for line in events.stdout if "CannotBeUsed" in line)
        events.terminate()
    assert "acessPolicy" in said
    assert "acessPolicy" in demo.kubectl("events", "-n", DEMO, "--for=server.policy.linkerd.io/broken")


Permission = tuple[str, str, str]
"""Group, resource, verb."""

USED_LATER: dict[str, set[Permission]] = {
    "quietwire-agent": {
        (POLICY, resource, verb)
        for resource in ("egressnetworks", "httplocalratelimitpolicies")
        for verb in ("list", "watch")
    }
    | {("gateway.networking.k8s.io", resource, "watch") for resource in ("grpcroutes", "httproutes")},
    "quietwire-authority": {
        ("", "secrets", "delete"),
        ("", "secrets", "watch"),
        ("", "namespaces", "list"),
        ("", "namespaces", "watch"),
        *(("", "configmaps", verb) for verb in ("create", "get", "patch", "update", "delete")),
    },
}
"""What nothing here needs: kinds that nobody has or that bear on requests, what is tidied up after hours, and the
bundle's ConfigMaps."""


def granted(cluster: Cluster, account: str) -> set[Permission]:
    """What its roles allow."""
    roles = [json.loads(cluster.kubectl("get", "clusterrole", account, "-o", "json"))]
    found = cluster.kubectl("get", "role", "-n", MESH, account, "-o", "json", "--ignore-not-found")
    return {
        (group, resource, verb)
        for role in [*roles, *([json.loads(found)] if found else [])]
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def asked(cluster: Cluster, account: str) -> Iterator[tuple[Permission, str]]:
    """What it asked of the API server, and whether it might."""
    for line in cluster.layout.audit.read_text().splitlines():
        event = json.loads(line)
        what = event.get("objectRef")
        if event["user"]["username"] == f"system:serviceaccount:{MESH}:{account}" and what is not None:
            resource = "/".join(part for part in (what["resource"], what.get("subresource")) if part)
            decision = event["annotations"]["authorization.k8s.io/decision"]
            yield (what.get("apiGroup", ""), resource, event["verb"]), decision


@pytest.mark.parametrize("account", ["quietwire-agent", "quietwire-authority"])
def test_no_request_is_refused_and_no_permission_is_never_used(demo: Cluster, account: str) -> None:
    """After all that the tests before this one had done."""
    found = list(asked(demo, account))
    assert [what for what, decision in found if decision != "allow"] == []
    used = {what for what, _ in found}
    assert used, "the API server records nothing"
    # This server streams a list as the beginning of a watch; others are asked for pages.
    used |= {(group, resource, "list") for group, resource, verb in used if verb == "watch"}
    assert granted(demo, account) - used - USED_LATER[account] == set()


def with_bundle(cluster: Cluster) -> set[str]:
    """The namespaces that have the bundle."""
    shown = "jsonpath={range .items[*]}{.metadata.namespace}{'\\n'}{end}"
    return set(cluster.kubectl("get", "configmap", "-A", f"--field-selector=metadata.name={NAME}", "-o", shown).split())


def test_uninstalling_leaves_nothing(mesh: Cluster, demo: Cluster, before: set[str]) -> None:
    """Of the bundle the cluster's garbage collector hears when the authority's ClusterRole goes."""
    assert with_bundle(mesh) == {MESH, DEMO}
    mesh.helm("uninstall", "quietwire", *WHERE, "--wait", "--timeout", f"{SECONDS}s", seconds=SECONDS + 10)
    mesh.wait("-n", DEMO, "--for=delete", f"configmap/{NAME}")
    mesh.wait("-n", MESH, "--for=delete", f"configmap/{NAME}")
    assert with_bundle(mesh) == set()
    mesh.kubectl("delete", "namespace", MESH, DEMO, f"--timeout={SECONDS}s", seconds=SECONDS + 10)
    assert cluster_wide(mesh) == before
