"""One cluster for all scenarios of a run, whichever process of the run needs it first, and nothing of it afterwards.

Scenarios run side by side, each in a namespace of its own; one that is `disruptive` has the cluster for itself.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.image import build
from tests.kubernetes.cluster.cluster import Cluster, remove_orphans
from tests.kubernetes.mesh import Mesh

HERE = Path(__file__).parent
RUN = "QUIETWIRE_TEST_RUN"
"""In the environment: the process that was called as pytest, of which xdist's workers are children."""
FIRST_SECONDS = 2400.0
"""For the test that comes first, where nothing is built yet."""
BUILDING = pytest.StashKey["subprocess.Popen[bytes]"]()


def say(words: str) -> None:
    """Past pytest's capturing: it may take minutes."""
    print(f"cluster: {words}", file=sys.__stderr__, flush=True)


def cluster_of_run() -> Cluster:
    """The one of this run, whether or not it is up."""
    return Cluster(f"qwt{os.environ[RUN]}", say)


def pytest_configure(config: pytest.Config) -> None:
    """Names the run."""
    if not hasattr(config, "workerinput"):
        os.environ[RUN] = str(os.getpid())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What needs a cluster comes last: that is built beside all other tests meanwhile."""
    ours = [item for item in items if HERE in item.path.parents and "cluster" in getattr(item, "fixturenames", ())]
    for item in ours:
        item.add_marker(pytest.mark.kubernetes)
        item.add_marker(pytest.mark.timeout(FIRST_SECONDS))
    others = [item for item in items if item not in set(ours)]
    items[:] = [*others, *ours]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Begins to build what a cluster is made of. Whoever needs it waits, or builds it, or says why it cannot be."""
    config = session.config
    if hasattr(config, "workerinput") or os.geteuid() != 0 or config.option.collectonly:
        return
    remove_orphans(say)
    if config.option.markexpr or config.option.keyword or any(Path(each).is_file() for each in config.args):
        return  # a few tests only, which may need none
    words = [sys.executable, "-m", "tests.kubernetes.cluster", "build", "--parent", str(os.getpid())]
    config.stash[BUILDING] = subprocess.Popen(words, cwd=HERE.parent.parent, stdin=subprocess.DEVNULL)


def pytest_unconfigure(config: pytest.Config) -> None:
    """The process that was called, and not one of its workers, takes the cluster down."""
    if hasattr(config, "workerinput") or os.geteuid() != 0:
        return
    if (building := config.stash.get(BUILDING, None)) is not None:
        building.terminate()
        building.wait()
    cluster = cluster_of_run()
    cluster.down()
    for what in ("image", "mesh", "quiet", "up"):
        lock_of(cluster, what).unlink(missing_ok=True)


def lock_of(cluster: Cluster, what: str) -> Path:
    """`up`: whoever has it brings the cluster up. `quiet`: whoever has it alone may disturb it.

    `image`: whoever has it puts our image into the nodes. `mesh`: whoever has it installs it.
    """
    return cluster.layout.directory.with_suffix(f".{what}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """A test that needs the cluster waits for who disturbs it, and one that disturbs it for all others."""
    if item.get_closest_marker("kubernetes") is None or os.geteuid() != 0:
        return (yield)
    quiet = lock_of(cluster_of_run(), "quiet")
    quiet.parent.mkdir(parents=True, exist_ok=True)
    with quiet.open("w") as lock:
        alone = item.get_closest_marker("disruptive") is not None
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        return (yield)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """Two nodes and DNS, up and ready."""
    assert os.geteuid() == 0, "a cluster needs root: make test, or make test-unit"
    made = cluster_of_run()
    up = lock_of(made, "up")
    up.parent.mkdir(parents=True, exist_ok=True)
    with up.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made.is_up:
            made.prepare()
        else:
            made.up(owner=int(os.environ[RUN]))
    return made


@pytest.fixture(autouse=True)
def _left_as_found(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a disruptive scenario takes away is there again before the next begins: nobody else waits for that."""
    if request.node.get_closest_marker("disruptive") is None:
        yield
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    before = cluster.stands()
    yield
    cluster.comes_back(before)


@pytest.fixture(scope="session")
def quietwire_image(cluster: Cluster) -> str:
    """This checkout's image, as a pod names it; every node has it."""
    image = build.make(say)
    loaded = cluster.layout.directory / "quietwire-image"
    with lock_of(cluster, "image").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not loaded.exists():
            cluster.load_everywhere(image.archive)
            loaded.touch()
    return image.name


@pytest.fixture(scope="session")
def mesh(cluster: Cluster, quietwire_image: str) -> Mesh:
    """Agents on both nodes and an authority, as the chart installs them: up and ready."""
    made = Mesh(cluster, quietwire_image)
    with lock_of(cluster, "mesh").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_installed:
            made.install()
    return made
