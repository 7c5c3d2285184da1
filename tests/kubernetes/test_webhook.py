"""The webhooks on a real API server: what is stored of a pod, what kubectl is told, and what holds while they are away.

In a cluster of their own, of one API server: who is asked before anything is stored is everybody's matter. They run
with the chart's objects, and with no more rights than those give.
"""

import asyncio
import base64
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding

from agent.kubernetes.access import from_kubeconfig
from agent.kubernetes.client import Client
from agent.objects.model import LINKERDS_PROXY
from agent.objects.policy import POLICY_GROUP
from agent.webhook.certificates import Authority, CertificateError, load
from agent.webhook.injection import CONTAINER, VOLUME, InjectionSettings, container, volume
from agent.webhook.keeping import Kept
from deploy.helm import __main__ as chart
from tests.kubernetes import linkerd
from tests.kubernetes.cluster.cluster import Cluster, ClusterError
from tests.kubernetes.inside import inside

ROOT = Path(__file__).parents[2]
TEMPLATE = "templates/webhooks.yaml"
MESH, NAME = "quietwire", "quietwire-webhook"
IMAGE = "localhost/quietwire:webhook-test"
OURS = container(InjectionSettings(image=IMAGE), {})


class Webhooks:
    """The chart's objects, and one process that serves them, beside the API server."""

    def __init__(self, api: Cluster, directory: Path) -> None:
        self.api = api
        self._directory = directory
        self._port = 0
        self._process: subprocess.Popen[str] | None = None

    def objects(self) -> list[dict[str, Any]]:
        """As helm renders them."""
        repository, _, tag = IMAGE.partition(":")
        flags = ("--set", f"image.repository={repository}", "--set", f"image.tag={tag}")
        said = chart.rendered(self.api.program("helm"), *flags, "--show-only", TEMPLATE, namespace=MESH)
        return [each for each in yaml.safe_load_all(said) if each]

    def install(self) -> None:
        """All objects but the configurations, and a kubeconfig for the service account."""
        self.api.kubectl("create", "namespace", MESH)
        others = [each for each in self.objects() if not each["kind"].endswith("Configuration")]
        self.api.kubectl("apply", "-f", "-", given="\n---\n".join(map(json.dumps, others)))
        admin = yaml.safe_load(self.api.layout.kubeconfig.read_text())
        token = self.api.kubectl("create", "token", "-n", MESH, NAME).strip()
        context = {"cluster": admin["clusters"][0]["name"], "user": "it"}
        config = {
            **admin,
            "users": [{"name": "it", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": context}],
            "current-context": "it",
        }
        self.kubeconfig.write_text(json.dumps(config))

    @property
    def kubeconfig(self) -> Path:
        return self._directory / "kubeconfig"

    def start(self) -> None:
        """Serves; and says to the API server where, the first time."""
        self._process, port = self.another(self._port)
        if not self._port:
            self._port = port
            self.configure()
            self.await_believed()

    def another(self, port: int = 0) -> tuple[subprocess.Popen[str], int]:
        """One more replica, and its port."""
        words = [sys.executable, "-m", "agent.cli", "webhook", "run", "--image", IMAGE, "--listen", f"127.0.0.1:{port}"]
        words += ["--namespace", MESH, "--name", "localhost", "--kubeconfig", str(self.kubeconfig)]
        inside = ["nsenter", f"--net=/run/netns/{self.api.layout.hub}"]
        process = subprocess.Popen([*inside, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if serves := re.search(r"the webhooks serve on 127\.0\.0\.1:(\d+)", line):
                return process, int(serves[1])
        raise AssertionError(said)

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)
        self._process = None

    def configure(self) -> None:
        """The chart's configurations, with an address in the Service's place."""
        for each in self.objects():
            if each["kind"].endswith("Configuration"):
                for webhook in each["webhooks"]:
                    path = webhook["clientConfig"]["service"]["path"]
                    webhook["clientConfig"] = {"url": f"https://localhost:{self._port}{path}"}
                self.api.kubectl("apply", "-f", "-", given=json.dumps(each))

    @property
    def kept(self) -> bytes:
        """What is in the Secret."""
        found = json.loads(self.api.kubectl("get", "secret", "-n", MESH, NAME, "-o", "json"))
        return base64.b64decode(found["data"]["authorities.pem"])

    def await_believed(self) -> None:
        """Until the API server has our CAs in both configurations."""
        pem = b"".join(each.certificate.public_bytes(Encoding.PEM) for each in load(self.kept))
        wanted = base64.b64encode(pem).decode()
        for kind in ("mutating", "validating"):
            self.api.wait(
                f"{kind}webhookconfiguration/{NAME}",
                f"--for=jsonpath={{.webhooks[0].clientConfig.caBundle}}={wanted}",
            )

    def clean(self) -> None:
        self.stop()
        for kind in ("mutating", "validating"):
            self.api.kubectl("delete", f"{kind}webhookconfiguration", NAME, "--ignore-not-found")


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    with process:
        assert process.wait(30) == 0


@pytest.fixture(scope="module")
def api(another_cluster: Callable[[str], Cluster]) -> Iterator[Cluster]:
    """An API server that has the chart's definitions, and namespaces."""
    made = another_cluster("w")
    try:
        made.up(0)
        made.kubectl("apply", "--server-side", "-f", str(chart.DEFINITIONS))
        made.wait("--for=condition=Established", "crd", "--all")
        for name, inject in (("meshed", "enabled"), ("plain", None), ("off", "disabled")):
            made.kubectl("apply", "-f", "-", given=json.dumps(namespace(name, inject)))
            made.wait("-n", name, "--for=create", "serviceaccount/default")
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def installed(api: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webhooks]:
    made = Webhooks(api, tmp_path_factory.mktemp("webhooks"))
    try:
        made.install()
        made.start()
        yield made
    finally:
        made.clean()


@pytest.fixture
def webhooks(installed: Webhooks) -> Webhooks:
    if installed._process is None:
        installed.start()
    return installed


@pytest.fixture(scope="module")
def linkerds(api: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[linkerd.Injector]:
    """Another mesh's injector."""
    with linkerd.injector(api, tmp_path_factory.mktemp("linkerd")) as found:
        yield found


def namespace(name: str, inject: str | None = None) -> dict[str, Any]:
    annotations = {} if inject is None else {"linkerd.io/inject": inject}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations}}


def pod(inject: str | None = None, **spec: Any) -> dict[str, Any]:
    annotations = {} if inject is None else {"linkerd.io/inject": inject}
    containers = [{"name": "app", "image": "app:1"}]
    metadata = {"generateName": "web-", "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers, **spec}}


def server(**spec: Any) -> dict[str, Any]:
    sound = {"podSelector": {"matchLabels": {"app": "api"}}, "port": 8080, **spec}
    return {"apiVersion": f"{POLICY_GROUP}/v1beta3", "kind": "Server", "metadata": {"name": "s"}, "spec": sound}


def created(api: Cluster, where: str, what: dict[str, Any], *more: str) -> dict[str, Any]:
    """What would be stored. Raises ClusterError with kubectl's words."""
    words = ("create", "-n", where, "--dry-run=server", "-o", "json", *more, "-f", "-")
    found: dict[str, Any] = json.loads(api.kubectl(*words, given=json.dumps(what)))
    return found


def inits(stored: dict[str, Any]) -> list[str]:
    return [each["name"] for each in stored["spec"].get("initContainers", [])]


SIDECARS = [{"name": "first", "image": "i"}, {"name": "sidecar", "image": "i", "restartPolicy": "Always"}]


@pytest.mark.parametrize(
    ("where", "asked", "expected"),
    [
        ("meshed", pod(), [CONTAINER]),
        ("meshed", pod("disabled"), []),
        ("meshed", pod(hostNetwork=True), []),
        ("meshed", pod(initContainers=SIDECARS), [CONTAINER, "first", "sidecar"]),
        ("plain", pod(), []),
        ("plain", pod("enabled"), [CONTAINER]),
        ("plain", pod("enabled", hostNetwork=True), []),
        ("off", pod(), []),
        ("off", pod("enabled"), [CONTAINER]),
        ("kube-system", pod("enabled"), []),
    ],
)
def test_a_pod_is_stored_with_our_init_container_first_where_it_is_to_be_captured(
    webhooks: Webhooks, where: str, asked: dict[str, Any], expected: list[str]
) -> None:
    stored = created(webhooks.api, where, asked)
    assert inits(stored) == expected
    assert [each["name"] for each in stored["spec"].get("volumes", [])].count(VOLUME) == expected.count(CONTAINER)


def test_a_namespace_counts_as_it_is_in_the_very_moment(webhooks: Webhooks) -> None:
    """Nothing that a watch would tell later matters: one that was just made, or annotated, is asked for."""
    api = webhooks.api
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "soon", "namespace": "just-made"}}
    try:
        given = "\n---\n".join(map(json.dumps, [namespace("just-made"), account]))
        api.kubectl("apply", "-f", "-", given=given)
        assert inits(created(api, "just-made", pod(serviceAccountName="soon"))) == []
        for inject, expected in (("enabled", [CONTAINER]), ("disabled", []), ("enabled", [CONTAINER])):
            api.kubectl("annotate", "namespace", "just-made", f"linkerd.io/inject={inject}", "--overwrite")
            assert inits(created(api, "just-made", pod(serviceAccountName="soon"))) == expected
    finally:
        api.kubectl("delete", "namespace", "just-made", "--wait=false")


@pytest.mark.parametrize("name", ["a-linkerd", "z-linkerd"])
def test_of_two_meshes_a_pod_is_linkerds_alone_whichever_webhook_is_asked_first(
    webhooks: Webhooks, linkerds: linkerd.Injector, name: str
) -> None:
    """Where nobody said that we are beside Linkerd: both are asked, and ours once more after Linkerd's."""
    api = webhooks.api
    api.kubectl("apply", "-f", "-", given=json.dumps(linkerds.configuration(name)))
    try:
        for _ in range(100):  # the API server hears of it a little later
            stored = created(api, "meshed", pod())
            if len(stored["spec"]["containers"]) == 2:
                break
        assert [each["name"] for each in stored["spec"]["containers"]] == ["app", LINKERDS_PROXY]
        assert inits(stored) == []
        assert VOLUME not in [each["name"] for each in stored["spec"]["volumes"]]
        assert inits(created(api, "meshed", pod(automountServiceAccountToken=False))) == [CONTAINER], "it leaves it out"
    finally:
        api.kubectl("delete", "mutatingwebhookconfiguration", name)


def test_what_is_stored_of_it_is_what_was_meant(webhooks: Webhooks) -> None:
    """Beside what the API server adds itself: defaults, and the service account's token."""
    stored = created(webhooks.api, "meshed", pod())
    (ours,) = stored["spec"]["initContainers"]
    assert {name: ours[name] for name in OURS if name != "volumeMounts"} == {
        name: each for name, each in OURS.items() if name != "volumeMounts"
    }
    assert OURS["volumeMounts"][0] in [
        {name: each for name, each in mount.items() if name != "recursiveReadOnly"} for mount in ours["volumeMounts"]
    ]
    assert volume(InjectionSettings(image=IMAGE)) in stored["spec"]["volumes"]


def test_pods_of_a_deployment_are_captured(webhooks: Webhooks) -> None:
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": pod()["spec"]}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}
    webhooks.api.kubectl("apply", "-n", "meshed", "-f", "-", given=json.dumps(deployment))
    try:
        webhooks.api.wait("-n", "meshed", "deploy/web", "--for=jsonpath={.status.replicas}=2")
        pods = json.loads(webhooks.api.kubectl("get", "pods", "-n", "meshed", "-l", "app=web", "-o", "json"))["items"]
        assert [inits(each) for each in pods] == [[CONTAINER]] * 2
    finally:
        webhooks.api.kubectl("delete", "-n", "meshed", "deploy/web", "--cascade=foreground", "--wait=false")


def test_a_pod_that_comes_with_its_namespace_is_captured(webhooks: Webhooks) -> None:
    """Whether the webhooks have heard of it by then or not."""
    for number in range(5):
        name = f"new-{number}"
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "own", "namespace": name}}
        made = {**pod(serviceAccountName="own"), "metadata": {"name": "web", "namespace": name}}
        given = "\n---\n".join(map(json.dumps, (namespace(name, "enabled"), account, made)))
        webhooks.api.kubectl("create", "-f", "-", given=given)
        assert inits(json.loads(webhooks.api.kubectl("get", "pod", "-n", name, "web", "-o", "json"))) == [CONTAINER]
        webhooks.api.kubectl("delete", "namespace", name, "--wait=false")


@pytest.mark.parametrize(
    ("where", "what", "words"),
    [
        ("plain", server(acessPolicy="deny"), "spec.acessPolicy: unknown field 'acessPolicy'; known here: podSelector"),
        ("plain", pod("yes"), "metadata.annotations.linkerd.io/inject: linkerd.io/inject is 'yes', and must be one of"),
        ("plain", namespace("bad", "true"), "metadata.annotations.linkerd.io/inject: linkerd.io/inject is 'true', and"),
    ],
    ids=["Server", "Pod", "Namespace"],
)
def test_kubectl_is_told_what_authz_check_says(
    webhooks: Webhooks, where: str, what: dict[str, Any], words: str
) -> None:
    with pytest.raises(ClusterError) as refused:
        created(webhooks.api, where, what)
    assert f'admission webhook "validate.quietwire.io" denied the request: {words}' in str(refused.value)


def test_what_is_sound_is_stored_and_what_is_odd_is_warned_of(webhooks: Webhooks) -> None:
    assert created(webhooks.api, "plain", server())["spec"]["port"] == 8080
    named = {"apiVersion": f"{POLICY_GROUP}/v1alpha1", "kind": "AuthorizationPolicy", "metadata": {"name": "p"}}
    target = {"group": POLICY_GROUP, "kind": "Server", "name": "s"}
    odd = {**named, "spec": {"targetRef": target, "requiredAuthenticationRefs": []}}
    words = webhooks.api.kubectl_command("create", "-n", "plain", "--dry-run=server", "-f", "-")
    done = subprocess.run(words, input=json.dumps(odd), capture_output=True, text=True, check=True, timeout=60)
    assert (
        done.stderr == "Warning: its requiredAuthenticationRefs are empty: it lets everyone in, plaintext clients too\n"
    )


def test_the_deployment_is_what_the_api_server_takes(webhooks: Webhooks) -> None:
    (found,) = [each for each in webhooks.objects() if each["kind"] == "Deployment"]
    words = found["spec"]["template"]["spec"]["containers"][0]["args"]
    assert words[:2] == ["webhook", "run"]
    stored = json.loads(webhooks.api.kubectl("get", "deploy", "-n", MESH, NAME, "-o", "json"))
    assert stored["spec"]["replicas"] == 2


def test_another_replica_goes_by_the_same_cas_and_what_somebody_wipes_out_comes_back(webhooks: Webhooks) -> None:
    kept = webhooks.kept
    other, _ = webhooks.another()
    try:
        assert webhooks.kept == kept
        for kind in ("mutating", "validating"):
            wiped = [{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]
            webhooks.api.kubectl("patch", f"{kind}webhookconfiguration", NAME, "--type=json", "-p", json.dumps(wiped))
        webhooks.await_believed()
        assert inits(created(webhooks.api, "meshed", pod())) == [CONTAINER]
    finally:
        end(other)


def test_what_is_applied_once_more_keeps_what_the_webhooks_wrote(webhooks: Webhooks) -> None:
    """As an upgrade does it: nobody is unknown for a moment."""
    kept = webhooks.kept
    webhooks.configure()
    (secret,) = [each for each in webhooks.objects() if each["kind"] == "Secret"]
    webhooks.api.kubectl("apply", "-f", "-", given=json.dumps(secret))
    assert webhooks.kept == kept
    assert inits(created(webhooks.api, "meshed", pod())) == [CONTAINER]


def test_replicas_that_start_at_once_make_one_ca_and_an_empty_secret_is_missed(webhooks: Webhooks) -> None:
    api = webhooks.api
    api.kubectl("create", "secret", "generic", "-n", MESH, "race")

    async def work() -> list[tuple[Authority, ...]]:
        client = Client(from_kubeconfig([api.layout.kubeconfig]))
        replicas = [Kept(client, MESH, "race", NAME) for _ in range(8)]
        try:
            found = await asyncio.gather(*(each.authorities(time.time()) for each in replicas))
            with pytest.raises(CertificateError, match=f"there is no Secret {MESH}/none: make an empty one"):
                await Kept(client, MESH, "none", NAME).authorities(time.time())
        finally:
            client.close()
        return found

    found = inside(api, work)
    assert {len(each) for each in found} == {1}
    assert len({each[0].certificate for each in found}) == 1


def test_while_they_are_away_pods_to_be_captured_are_not_made_and_nothing_else_waits(webhooks: Webhooks) -> None:
    api, kept = webhooks.api, webhooks.kept
    webhooks.stop()
    for where, asked in (("meshed", pod()), ("plain", pod("enabled"))):
        with pytest.raises(ClusterError, match=r'failed calling webhook "inject\.quietwire\.io"'):
            created(api, where, asked)
    for where, asked in (
        ("meshed", pod("disabled")),
        ("meshed", pod(hostNetwork=True)),
        ("kube-system", pod()),
        (MESH, pod("enabled")),
    ):
        assert inits(created(api, where, asked)) == []
    assert created(api, "plain", server(acessPolicy="deny"))["kind"] == "Server", "agents close what it is about"
    webhooks.start()
    assert webhooks.kept == kept
    assert inits(created(api, "meshed", pod())) == [CONTAINER]


def test_each_permission_is_used_and_none_is_missing(webhooks: Webhooks) -> None:
    """They have served all the others with these rights; here is what they may not."""
    may = webhooks.api.kubectl_command(
        "auth", "can-i", "--list", "-n", MESH, f"--as=system:serviceaccount:{MESH}:{NAME}"
    )
    said = subprocess.run(may, capture_output=True, text=True, check=True, timeout=60).stdout
    ours = [line.split() for line in said.splitlines() if "selfsubject" not in line and "[/" not in line][1:]
    assert sorted(" ".join(line) for line in ours) == [
        "mutatingwebhookconfigurations.admissionregistration.k8s.io [] [quietwire-webhook] [get patch]",
        "namespaces [] [] [get]",
        "secrets [] [quietwire-webhook] [get patch]",
        "validatingwebhookconfigurations.admissionregistration.k8s.io [] [quietwire-webhook] [get patch]",
    ]
