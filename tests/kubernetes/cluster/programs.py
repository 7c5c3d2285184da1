"""The cluster's programs, built from the Go module in this directory once, and kept for the next checkout."""

import datetime
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

MODULE = Path(__file__).parent
PACKAGES = ("./cmd/kube", "./cmd/coredns", "./cmd/pause", "helm.sh/helm/v3/cmd/helm")
BUILT = ("kube", "coredns", "pause", "helm")
LINKS = (
    "etcd",
    "etcd-compact",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
)
"""Names by which `kube` is called."""
KEPT = 2
"""How many builds are kept: this one, and the one before, for who goes back and forth between two checkouts."""
TOLD = "told"
"""A file beside the programs, for who reads how long a run took."""
GO = {
    "CGO_ENABLED": "0",
    "GOTOOLCHAIN": "local",
    "GOFLAGS": "-buildvcs=false -mod=readonly",
    "GOGC": "400",  # an eighth of the compilers' time, for memory that a machine with a cluster on it has
}
DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""setpriv(1): whoever ends this build ends Go's too."""
SAID_EVERY_SECONDS = 10.0
LAST_WORDS = 30
"""Lines of Go's output that an error shows."""


class BuildError(Exception):
    """The programs could not be built; says why, and what to do."""


class Progress(Struct, frozen=True):
    """How far a build is."""

    packages: int
    of: int
    seconds: float

    def __str__(self) -> str:
        return f"building Kubernetes, once: {self.packages} of {self.of} packages, {self.seconds:.0f} s"


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Where what is built and unpacked outlives the checkout."""
    base = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or "/root") / ".cache"
    return Path(base) / "quietwire" / "kubernetes"


def go_program() -> Path:
    """Go, as the development requirements install it. Raises BuildError."""
    go = Path(sys.executable).parent / "go"
    if not go.exists():
        raise BuildError(f"{go} does not exist: `make cluster` installs Go with the development requirements")
    return go


def key_of(module: Path, toolchain: str) -> str:
    """What a build depends on, as one name: the module's files and the toolchain."""
    digest = hashlib.sha256(toolchain.encode())
    for path in sorted([module / "go.mod", module / "go.sum", *module.glob("cmd/*/*.go")]):
        content = path.read_bytes()
        digest.update(f"\0{path.relative_to(module)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def version_flags(version: str) -> str:
    """For Go's linker: what Kubernetes says that it is. Raises BuildError."""
    parts = version.removeprefix("v").split(".")
    if len(parts) != 3:
        raise BuildError(f"k8s.io/kubernetes is of version {version!r}, which is no vMAJOR.MINOR.PATCH")
    at = "k8s.io/component-base/version"
    said = {"gitVersion": version, "gitMajor": parts[0], "gitMinor": parts[1], "gitTreeState": "clean"}
    return " ".join(["-s -w", *(f"-X {at}.{name}={value}" for name, value in said.items())])


def build(say: Callable[[str], None], environ: Mapping[str, str] = os.environ, module: Path = MODULE) -> Path:
    """The directory with all programs; they are built where they are not there yet. Raises BuildError, OSError.

    Whoever comes while another builds waits for that build.
    """
    go = go_program()
    environment = {**environ, **GO}
    cache = cache_directory(environ)
    programs = cache / f"programs-{key_of(module, _ask(go, 'version', environment, module))}"
    cache.mkdir(parents=True, exist_ok=True)
    with alone(cache / "lock", say):
        if not programs.is_dir():
            unfinished = cache / "building"
            if unfinished.exists():  # of a build that was killed
                shutil.rmtree(unfinished)
            unfinished.mkdir()
            _compile(go, environment, module, unfinished, say)
            unfinished.rename(programs)
        os.utime(programs)
        _forget_older(cache)
    return programs


def _compile(go: Path, environment: Mapping[str, str], module: Path, to: Path, say: Callable[[str], None]) -> None:
    say("fetching what Kubernetes is made of, once: 150 MB")
    version = _ask(go, "list -m -f {{.Version}} k8s.io/kubernetes", environment, module)
    of = len(_ask(go, f"list -deps {' '.join(PACKAGES)}", environment, module).splitlines())
    started = said = time.monotonic()
    words = [*DIE_WITH_US, "nice", "-n", "10", str(go), "build", "-v", "-trimpath"]
    words += ["-ldflags", version_flags(version), "-o", str(to)]
    last: deque[str] = deque(maxlen=LAST_WORDS)
    built = 0
    with subprocess.Popen(
        [*words, *PACKAGES], cwd=module, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            last.append(line.rstrip())
            built += 1
            now = time.monotonic()
            if now - said >= SAID_EVERY_SECONDS:
                said = now
                say(str(Progress(min(built, of), of, now - started)))
    if process.returncode:
        raise BuildError(
            "Kubernetes could not be built; Go's last words:\n  "
            + "\n  ".join(last)
            + "\nIf a download failed, see that the module proxy that `go env GOPROXY` names is reachable; what has "
            "been built is kept, and the next try goes on from there"
        )
    for name in LINKS:
        (to / name).symlink_to("kube")
    ended = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    told = f"built Kubernetes {version} in {time.monotonic() - started:.0f} s, until {ended}"
    (to / TOLD).write_text(told)
    say(told)


def told(environ: Mapping[str, str] = os.environ) -> str:
    """When what is used now was built, and how long that took; "" where nothing has been built."""
    found = max(
        cache_directory(environ).glob(f"programs-*/{TOLD}"), key=lambda path: path.parent.stat().st_mtime, default=None
    )
    return "" if found is None else found.read_text()


def _ask(go: Path, words: str, environment: Mapping[str, str], module: Path) -> str:
    done = subprocess.run(
        [str(go), *words.split(" ")], cwd=module, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BuildError(f"`go {words}` says: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def alone(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("somebody else builds Kubernetes: waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _forget_older(cache: Path) -> None:
    builds = sorted(cache.glob("programs-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in builds[KEPT:]:
        shutil.rmtree(old)
