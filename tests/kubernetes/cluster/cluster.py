"""A cluster's life: its parts are made, wait for one another, and leave nothing."""

import contextlib
import datetime
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.kubernetes.cluster import configuration, images, packages, pki, programs
from tests.kubernetes.cluster.layout import (
    API_SERVICE,
    CGROUPS,
    ETCD,
    MACHINES,
    MACHINES_V6,
    Layout,
    Node,
)
from tests.kubernetes.cluster.processes import Processes
from tests.kubernetes.cluster.standing import KINDS, Listed, Standing, fallen, standing, told_before

HERE = Path(__file__).parent
NODES = 2
LOOK_SECONDS = 0.1
API_SECONDS = 120.0
NODE_SECONDS = 90.0
COMMAND_SECONDS = 120.0
WAIT_SECONDS = 240
"""For what a cluster comes to by itself: after an outage some of it tries again after half a minute, or a whole one."""
LAST_EVENTS = 40
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CONTROL_PLANE = {
    "etcd": configuration.etcd,
    "kube-apiserver": configuration.api_server,
    "kube-controller-manager": configuration.controller_manager,
    "kube-scheduler": configuration.scheduler,
}
INOTIFY = "fs/inotify/max_user_instances"
INOTIFY_INSTANCES = 1024
"""128 is what many machines have, and two clusters need more: a kubelet ends without."""
KEPT = "kernel.json"
KERNEL_WIDE = (
    INOTIFY,
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
"""What a kubelet, and we, set for the whole machine: put back when the cluster goes."""


class ClusterError(Exception):
    """Some part of the cluster is not as it should be; says which, and its last words."""


class Cluster:
    """One of this machine's clusters. `say` is told what happens."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._cache = programs.cache_directory(os.environ)
        self.layout = Layout(name, self._cache / "clusters" / name)
        self._say = say
        self.processes = Processes(self.layout.record, self.layout.logs)
        self._programs = Path()
        self._packages = Path()
        self._images: list[Path] = []

    @property
    def is_up(self) -> bool:
        """Whether it has come up, and has not been taken down since."""
        return (self.layout.directory / "up").exists()

    @property
    def nodes(self) -> list[Node]:
        """Those that were ever started."""
        return [node for number in range(1, 10) if (node := self.layout.node(number)).directory.exists()]

    # What it is made of

    def prepare(self) -> None:
        """Builds and fetches what is missing. Raises BuildError, PackageError, OSError."""
        self._programs = programs.build(self._say)
        with programs.alone(self._cache / "lock", self._say):
            self._packages = packages.unpack(self._cache, self._say)
            self._images = images.made(self._cache, self._programs, self._packages)

    # Up and down

    def up(self, nodes: int = NODES, *, proxy_mode: str = "iptables", owner: int | None = None) -> None:
        """Brings it up, in place of one of this name. Raises ClusterError, and what `prepare` raises.

        Without nodes it is an API server with controllers, and nothing runs in it.
        When `owner`, a process, has ended, the next who calls `remove_orphans` takes it down.
        """
        self.prepare()
        self.down()
        started = time.monotonic()

        def say(what: str) -> None:
            self._say(f"{time.monotonic() - started:5.1f} s  {what}")

        self._furnish(nodes)
        if owner is not None:
            Processes(self.layout.owner, self.layout.logs).note("owner", owner)
        self._make_hub()
        for name in CONTROL_PLANE:
            self._start_control_plane(name)
        with ThreadPoolExecutor(nodes + 1) as together:
            made = [together.submit(self._make_node, self.layout.node(number)) for number in range(1, nodes + 1)]
            together.submit(self._wait_for_api).result()
            say("the API answers")
            for each in made:
                each.result()
            say(f"{nodes} nodes have containerd and the images")
        if nodes:
            self._populate(nodes, proxy_mode, say)
        (self.layout.directory / "up").touch()

    def _populate(self, nodes: int, proxy_mode: str, say: Callable[[str], None]) -> None:
        self.kubectl("apply", "--server-side", "-f", str(HERE / "dns.yaml"))
        for number in range(1, nodes + 1):
            self._start_node(self.layout.node(number), proxy_mode)
        self._join([self.layout.node(number) for number in range(1, nodes + 1)])
        say("the nodes have joined")
        self.wait("--for=condition=Ready", "nodes", "--all")
        say("the nodes are ready")
        self.rolled_out("kube-system", "deploy/coredns")
        say("DNS answers")

    def down(self) -> None:
        """Ends everything and takes everything away, also after a crash; there may be nothing."""
        layout = self.layout
        everything = self.processes.all
        # Whatever lives in a node ends with its first process. Nobody is asked, for nothing is kept.
        self.processes.end([each for each in everything if each.name.endswith(".init")], 0)
        self.processes.end(everything, 0)
        for netns in (layout.hub, *(node.netns for node in self.nodes)):
            if Path("/run/netns", netns).exists():
                self._run("ip", "netns", "delete", netns)
        for node in self.nodes:
            remove_cgroups(node.cgroup)
        self._restore_kernel()
        if layout.directory.exists():
            shutil.rmtree(layout.directory)

    # The nodes

    def cut_power(self, node: Node) -> None:
        """Ends a node's first process, and with it everything in the node, at once."""
        self.processes.end([each for each in self.processes.all if each.name == f"{node.name}.init"], 0)
        self.processes.end([each for each in self.processes.all if each.name.startswith(f"{node.name}.")], 0)

    def power_on(self, node: Node, *, proxy_mode: str = "iptables") -> None:
        """Starts a node again after a power cut: its disk is as it was, and everything in memory is gone."""
        self._ip(self.layout.hub, f"link delete {node.port}")  # with the namespace it would go later
        self._run("ip", "netns", "delete", node.netns)
        remove_cgroups(node.cgroup)
        (node.directory / "ready").unlink(missing_ok=True)
        began = datetime.datetime.now(datetime.UTC)
        self._make_node(node)
        self._start_node(node, proxy_mode)
        self._join(self.nodes)
        # Until its kubelet has told of its pods they pass for what they were.
        told = f"the kubelet of {node.name} tells of its pods"
        self._until(lambda: not told_before(self._listed(), node.name, began), told, WAIT_SECONDS)

    # What stands

    def stands(self) -> Standing:
        """What is ready now."""
        return standing(self._listed())

    def comes_back(self, before: Standing) -> None:
        """Returns when all that stood is ready again, or gone. Raises ClusterError with what is not."""
        deadline = time.monotonic() + WAIT_SECONDS
        while missing := fallen(before, self._listed(), datetime.datetime.now(datetime.UTC)):
            if time.monotonic() > deadline:
                raise ClusterError("\n".join([*missing, self._state()]))
            time.sleep(1.0)

    def _listed(self) -> Listed:
        found: Listed = json.loads(self.kubectl("get", ",".join(KINDS), "-A", "-o", "json"))["items"]
        return found

    def inside(self, node: Node) -> list[str]:
        """Words before a command that runs in a node."""
        first = self.processes.named(f"{node.name}.init")
        if first is None:
            raise ClusterError(f"node {node.name} is off")
        namespaces = ("--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup")
        return [str(HERE / "in-cgroup.sh"), node.cgroup, "nsenter", "-t", str(first.pid), *namespaces]

    # The control plane

    def restart(self, name: str) -> None:
        """Ends one part of the control plane, and starts it as it was. Returns when the API server answers."""
        self.processes.end([each for each in self.processes.all if each.name == name])
        self._start_control_plane(name)
        self._wait_for_api()
        if name == "kube-apiserver":
            self._wait_for_service()

    def _wait_for_service(self) -> None:
        """Until every node reaches the API's own service: kube-proxy has refused it, and tries again by itself."""
        address = self.kubectl("get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}")
        for node in self.nodes:
            if self.processes.named(f"{node.name}.init") is not None:
                curl = (
                    *self.inside(node),
                    "curl",
                    "-sk",
                    "-o",
                    "/dev/null",
                    "--max-time",
                    "2",
                    f"https://{address}/livez",
                )
                self._until(lambda curl=curl: self._answers(*curl), f"{node.name} reaches the API's service", 120.0)  # type: ignore[misc]  # bound by name

    def compact(self) -> None:
        """Has etcd forget all versions but the newest."""
        words = [str(self._programs / "etcd-compact"), ETCD]
        self._run("nsenter", f"--net=/run/netns/{self.layout.hub}", *words)

    # Talking to it

    def kubectl(self, *words: str, given: str | None = None, seconds: float = COMMAND_SECONDS) -> str:
        """What kubectl says, as the administrator. Raises ClusterError with what it says instead."""
        return self._run(*self.kubectl_command(*words), given=given, seconds=seconds)

    def wait(self, *words: str) -> None:
        """`kubectl wait`, with the patience that a busy machine needs; events tell why it came to nothing."""
        self._come_to("wait", *words)

    def rolled_out(self, namespace: str, what: str) -> None:
        """Waits until all replicas are there and ready, of a deployment or a daemon set."""
        self._come_to("rollout", "status", "-n", namespace, what)

    def _come_to(self, *words: str) -> None:
        try:
            self.kubectl(*words, f"--timeout={WAIT_SECONDS}s", seconds=2 * WAIT_SECONDS)
        except ClusterError as fault:
            raise ClusterError(f"{fault}\n{self._state()}") from fault

    def _state(self) -> str:
        """Nodes, pods, and what was told about them last: who reads of a failure has the cluster no more."""
        said = []
        for words in (("nodes",), ("pods", "-A"), ("events", "-A", "--sort-by=.lastTimestamp")):
            try:
                said += self.kubectl("get", *words, "-o", "wide").splitlines()[-LAST_EVENTS:]
            except ClusterError as fault:
                said.append(str(fault))
        return "\n".join(said)

    def kubectl_command(self, *words: str) -> list[str]:
        """A command line for kubectl as the administrator."""
        return [
            "nsenter",
            f"--net=/run/netns/{self.layout.hub}",
            str(self._programs / "kubectl"),
            f"--kubeconfig={self.layout.kubeconfig}",
            f"--cache-dir={self.layout.directory / 'kubectl'}",
            *words,
        ]

    def program(self, name: str) -> Path:
        """One of the programs that were built."""
        return self._programs / name

    def helm(self, *words: str, seconds: float = COMMAND_SECONDS) -> str:
        """What helm says, as the administrator. Raises ClusterError with what it says instead."""
        own = self.layout.directory / "helm"
        homes = [f"HELM_{what}_HOME={own / what.lower()}" for what in ("CACHE", "CONFIG", "DATA")]
        return self._run(
            *("nsenter", f"--net=/run/netns/{self.layout.hub}", "env", *homes, f"KUBECONFIG={self.layout.kubeconfig}"),
            *(str(self._programs / "helm"), *words),
            seconds=seconds,
        )

    @contextlib.contextmanager
    def namespace(self, name: str) -> Iterator[str]:
        """A namespace in which pods can be made; deleted afterwards, which nobody waits for."""
        self.kubectl("create", "namespace", name)
        try:
            self.wait("-n", name, "--for=create", "serviceaccount/default")
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false")

    # Parts

    def _furnish(self, nodes: int) -> None:
        layout = self.layout
        for outside in ("/etc", "/opt", "/run", "/var"):
            if layout.directory.is_relative_to(outside):
                raise ClusterError(
                    f"{layout.directory} is below {outside}, of which each node has a layer of its own: set "
                    f"XDG_CACHE_HOME to a directory elsewhere"
                )
        for directory in (layout.pki, layout.logs):
            directory.mkdir(parents=True)
        self._keep_kernel()
        (layout.directory / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        now = datetime.datetime.now(datetime.UTC)
        ca = pki.make_issuer(layout.pki, "ca", now)
        front = pki.make_issuer(layout.pki, "front-proxy-ca", now)
        api = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            API_SERVICE,
            "127.0.0.1",
            layout.address,
            layout.address_v6,
        ]
        masters = ["system:masters"]
        pki.issue(layout.pki, "apiserver", ca, now, user="kube-apiserver", hosts=api)
        pki.issue(layout.pki, "apiserver-kubelet-client", ca, now, user="kube-apiserver", groups=masters)
        pki.issue(layout.pki, "front-proxy-client", front, now, user="front-proxy-client")
        pki.make_token_key(layout.pki)
        clients: dict[str, tuple[str, list[str], list[str]]] = {
            "admin": ("administrator", masters, []),
            "controller-manager": ("system:kube-controller-manager", [], []),
            "scheduler": ("system:kube-scheduler", [], []),
            "kube-proxy": ("system:kube-proxy", ["system:node-proxiers"], []),
        }
        for number in range(1, nodes + 1):
            node = layout.node(number)
            addresses = [node.name, node.address, node.address_v6]
            clients[node.name] = (f"system:node:{node.name}", ["system:nodes"], addresses)
        for name, (user, groups, hosts) in clients.items():
            pki.issue(layout.pki, name, ca, now, user=user, groups=groups, hosts=hosts)
            pki.write_kubeconfig(layout.pki, name, layout.server)

    def _make_hub(self) -> None:
        layout = self.layout
        self._run("ip", "netns", "add", layout.hub)
        self._ip(
            layout.hub,
            "link set lo up",
            "link add br0 type bridge",
            f"addr add {layout.address}/{MACHINES.prefixlen} dev br0",
            f"addr add {layout.address_v6}/{MACHINES_V6.prefixlen} dev br0 nodad",
            "link set br0 up",
        )
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            self._run("nsenter", f"--net=/run/netns/{layout.hub}", "sysctl", "-qw", f"{name}=1")

    def _start_control_plane(self, name: str) -> None:
        words = CONTROL_PLANE[name](self.layout, self._programs / name)
        self.processes.start(name, ["nsenter", f"--net=/run/netns/{self.layout.hub}", *words])

    def _wait_for_api(self) -> None:
        self._until(
            lambda: self._answers(*self.kubectl_command("get", "--raw", "/readyz")),
            "the API server answers",
            API_SECONDS,
            needs=("etcd", "kube-apiserver"),
        )

    def _make_node(self, node: Node) -> None:
        """A machine with containerd and images, that has not joined yet."""
        layout, directory = self.layout, node.directory
        directory.mkdir(exist_ok=True)
        self._run("ip", "netns", "add", node.netns)
        self._ip(layout.hub, f"link add {node.port} type veth peer name eth0 netns {node.netns}")
        self._ip(layout.hub, f"link set {node.port} master br0 up")
        self._ip(
            node.netns,
            "link set lo up",
            f"addr add {node.address}/{MACHINES.prefixlen} dev eth0",
            f"addr add {node.address_v6}/{MACHINES_V6.prefixlen} dev eth0 nodad",
            "link set eth0 up",
            f"route add default via {layout.address}",
            f"-6 route add default via {layout.address_v6}",
        )
        plugins = self._packages / "usr/lib/cni"
        make_cgroups(node.cgroup)
        outer = self.processes.start(
            f"{node.name}.outer",
            [
                *(str(HERE / "in-cgroup.sh"), node.cgroup),
                *("nsenter", f"--net=/run/netns/{node.netns}"),
                *(
                    "unshare",
                    "--mount",
                    "--propagation",
                    "private",
                    "--pid",
                    "--fork",
                    "--mount-proc",
                    "--uts",
                    "--ipc",
                    "--cgroup",
                ),
                *(str(HERE / "node-init.sh"), node.name, str(directory), str(plugins)),
            ],
        )
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        self._until((directory / "ready").exists, f"{node.name} starts", NODE_SECONDS, needs=(f"{node.name}.outer",))
        self.processes.note(f"{node.name}.init", int(children.read_text().split()[0]))
        (directory / "containerd.toml").write_text(configuration.containerd(node))
        environ = {
            "PATH": f"{self._packages / 'usr/sbin'}:{self._packages / 'usr/bin'}:{PATH}",
            "HOME": "/root",
        }
        containerd = self._packages / "usr/bin/containerd"
        self.processes.start(
            f"{node.name}.containerd",
            [*self.inside(node), str(containerd), "-c", str(directory / "containerd.toml")],
            environ,
        )
        self._until(
            lambda: self._answers(*self.ctr(node, "version")),
            f"containerd of {node.name} answers",
            NODE_SECONDS,
            needs=(f"{node.name}.containerd",),
        )
        for image in self._images:
            self.load_image(node, image)

    def ctr(self, node: Node, *words: str) -> list[str]:
        """A command line for a node's containerd."""
        ctr = self._packages / "usr/bin/ctr"
        return [
            *self.inside(node),
            *(str(ctr), "--address", configuration.CONTAINERD_SOCKET, "--namespace", "k8s.io"),
            *words,
        ]

    def load_image(self, node: Node, archive: Path) -> None:
        """Imports an image into a node."""
        self._run(*self.ctr(node, "images", "import", str(archive)))

    def load_everywhere(self, archive: Path) -> None:
        """Imports an image into every node."""
        for node in self.nodes:
            self.load_image(node, archive)

    def restart_kubelet(self, node: Node) -> None:
        """Starts a node's kubelet anew; its pods go on."""
        name = f"{node.name}.kubelet"
        outer = self.processes.named(name)
        if outer is not None:
            # What was started entered the node's namespaces, and waits for its child, which is the kubelet.
            kubelet = int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text())
            os.kill(kubelet, signal.SIGTERM)
            self._until(lambda: self.processes.named(name) is None, f"{name} ends", NODE_SECONDS)
        self._start_kubelet(node)
        self._join(self.nodes)

    def _start_node(self, node: Node, proxy_mode: str) -> None:
        proxy = node.directory / "kube-proxy.json"
        proxy.write_text(json.dumps(configuration.kube_proxy(node, proxy_mode)))
        self._start_kubelet(node)
        self.processes.start(
            f"{node.name}.kube-proxy", [*self.inside(node), str(self._programs / "kube-proxy"), f"--config={proxy}"]
        )

    def _start_kubelet(self, node: Node) -> None:
        kubelet = node.directory / "kubelet.json"
        kubelet.write_text(json.dumps(configuration.kubelet(node)))
        self.processes.start(
            f"{node.name}.kubelet",
            [
                *self.inside(node),
                str(self._programs / "kubelet"),
                f"--config={kubelet}",
                f"--kubeconfig={self.layout.pki / node.name}.conf",
                f"--hostname-override={node.name}",
                f"--node-ip={node.address},{node.address_v6}",
                "--root-dir=/var/lib/kubelet",
            ],
        )

    def _join(self, nodes: Iterable[Node]) -> None:
        """Gives each node its pods' network, once the cluster has given it addresses for them."""
        nodes = list(nodes)
        cidrs: dict[Node, list[str]] = {}
        for node in nodes:
            found: list[str] = []

            def has_cidrs(node: Node = node, found: list[str] = found) -> bool:
                words = self.kubectl_command("get", "node", node.name, "-o", "jsonpath={.spec.podCIDRs[*]}")
                done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
                found[:] = done.stdout.split()
                return len(found) == 2

            self._until(has_cidrs, f"{node.name} joins", NODE_SECONDS, needs=(f"{node.name}.kubelet",))
            cidrs[node] = found
        for node in nodes:
            for to in (self.layout.hub, *(other.netns for other in nodes if other is not node)):
                ipv4, ipv6 = cidrs[node]
                self._ip(
                    to, f"route replace {ipv4} via {node.address}", f"-6 route replace {ipv6} via {node.address_v6}"
                )
            # containerd reads whatever is in there at any moment: a file comes whole, under its name, or not at all.
            unfinished = node.directory / "cni" / "cluster.tmp"
            unfinished.write_text(configuration.cni(cidrs[node]))
            unfinished.rename(node.directory / "cni" / "10-cluster.conflist")

    # Small things

    def _keep_kernel(self) -> None:
        """Remembers what the whole machine's settings were before any cluster came."""
        with programs.alone(self._cache / "kernel.lock", lambda _: None):
            others = self._others_kept()
            kept = (
                json.loads(others[0].read_text())
                if others
                else {name: path.read_text() for name in KERNEL_WIDE if (path := Path("/proc/sys", name)).exists()}
            )
            (self.layout.directory / KEPT).write_text(json.dumps(kept))
            if int(Path("/proc/sys", INOTIFY).read_text()) < INOTIFY_INSTANCES:
                Path("/proc/sys", INOTIFY).write_text(str(INOTIFY_INSTANCES))

    def _restore_kernel(self) -> None:
        """The last one that goes puts it back."""
        kept = self.layout.directory / KEPT
        if not kept.exists():
            return
        with programs.alone(self._cache / "kernel.lock", lambda _: None):
            if not self._others_kept():
                for name, value in json.loads(kept.read_text()).items():
                    Path("/proc/sys", name).write_text(value)
            kept.unlink()

    def _others_kept(self) -> list[Path]:
        return [each for each in self.layout.directory.parent.glob(f"*/{KEPT}") if each.parent != self.layout.directory]

    def _until(self, holds: Callable[[], bool], what: str, seconds: float, needs: Sequence[str] = ()) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            for name in needs:
                if self.processes.named(name) is None:
                    raise ClusterError(f"{name} has ended, and its last words are:\n{self.processes.last_words(name)}")
            if time.monotonic() > deadline:
                said = "\n".join(f"{name}:\n{self.processes.last_words(name)}" for name in needs)
                raise ClusterError(f"not within {seconds:g} s: {what}. Last words of\n{said}")
            time.sleep(LOOK_SECONDS)

    def _answers(self, *words: str) -> bool:
        done = subprocess.run(words, capture_output=True, check=False, timeout=COMMAND_SECONDS)
        return done.returncode == 0

    def _ip(self, netns: str, *commands: str) -> None:
        for command in commands:
            self._run("ip", "-n", netns, *command.split())

    def _run(self, *words: str, given: str | None = None, seconds: float = COMMAND_SECONDS) -> str:
        done = subprocess.run(words, input=given, capture_output=True, text=True, check=False, timeout=seconds)
        if done.returncode:
            raise ClusterError(f"`{' '.join(words)}` says: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


def remove_orphans(say: Callable[[str], None]) -> None:
    """Takes down the clusters whose owner has ended without doing so."""
    for directory in (programs.cache_directory(os.environ) / "clusters").glob("*/"):
        cluster = Cluster(directory.name, say)
        owners = Processes(cluster.layout.owner, cluster.layout.logs).all
        if owners and not any(owner.alive for owner in owners):
            say(f"taking down {directory.name}, which somebody left")
            cluster.down()


def make_cgroups(name: str) -> None:
    """One for a node's pods, in every hierarchy of cgroups(7), version 1 or 2."""
    if (CGROUPS / "cgroup.controllers").exists():
        found = set((CGROUPS / "cgroup.controllers").read_text().split()) & {"cpu", "cpuset", "io", "memory", "pids"}
        (CGROUPS / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in sorted(found)))
        (CGROUPS / name).mkdir(exist_ok=True)
        return
    for hierarchy in CGROUPS.iterdir():
        if not (hierarchy / "cgroup.procs").exists():
            continue
        made = hierarchy / name
        made.mkdir(exist_ok=True)
        for each in ("cpuset.cpus", "cpuset.mems"):
            if (hierarchy / each).exists():
                (made / each).write_text((hierarchy / each).read_text())


def remove_cgroups(name: str) -> None:
    """All of them, the innermost first. Raises OSError where somebody still lives in one."""
    roots = [CGROUPS] if (CGROUPS / "cgroup.controllers").exists() else list(CGROUPS.iterdir())
    for root in roots:
        for directory, _, _ in os.walk(root / name, topdown=False):
            Path(directory).rmdir()
