"""One cluster for all scenarios of a run, whichever process of the run needs it first, and nothing of it afterwards.

Scenarios run side by side, each in a namespace of its own; one that is `disruptive` has the cluster for itself.
"""

import fcntl
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from deploy.image import build
from tests.kubernetes.cluster import programs
from tests.kubernetes.cluster.cluster import Cluster, remove_orphans
from tests.kubernetes.mesh import Mesh

HERE = Path(__file__).parent
RUN = "QUIETWIRE_TEST_RUN"
"""In the environment: the process that was called as pytest, of which xdist's workers are children."""
FIRST_SECONDS = 2400.0
"""For the test that comes first, where nothing is built yet."""
DISTURBS = "test_bad_days"
LONG = (
    *("test_migration", "test_installation", "test_webhook", "test_chart"),
    *("test_who_is_meshed", "test_authority_replicas", "test_check"),
)
"""Modules that take minutes: all would wait for the one that begins last."""
QUIET = pytest.StashKey[tuple[IO[str], int]]()
"""The lock of that name, of the test that runs, and how it has it."""
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
    """Modules in the order in which a run with several processes ends soonest, each module's tests as they are.

    What needs a cluster comes last, for that is built beside all other tests; but what disturbs it all the time comes
    first, while nobody else wants it.
    """
    ours = {item for item in items if HERE in item.path.parents and _needs(item, "cluster", "another_cluster")}
    for item in ours:
        item.add_marker(pytest.mark.kubernetes)
        item.add_marker(pytest.mark.timeout(FIRST_SECONDS))
    sizes = Counter(item.path for item in items)
    of_ours = {item.path for item in ours}

    def rank(item: pytest.Item) -> tuple[int, int]:
        if item.path not in of_ours:  # a module is one process's, and waits for a cluster as a whole
            return 1, -sizes[item.path]
        if item.path.stem == DISTURBS:
            return 0, 0
        return 2, LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG)

    items.sort(key=lambda item: (rank(item), item.path))


def _needs(item: pytest.Item, *names: str) -> bool:
    return not set(names).isdisjoint(getattr(item, "fixturenames", ()))


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
    for what in ("image", "quiet", "up"):
        lock_of(cluster, what).unlink(missing_ok=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How long a run took depends on whether it built Kubernetes first."""
    if told := programs.told():
        terminalreporter.write_line(told)


def lock_of(cluster: Cluster, what: str) -> Path:
    """`up`: whoever has it brings the cluster up. `quiet`: whoever has it alone may disturb it.

    `image`: whoever has it puts our image into the nodes.
    """
    return cluster.layout.directory.with_suffix(f".{what}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """A test that needs a cluster waits for who disturbs the shared one, and one that disturbs it for all others.

    Who has one of his own waits as well: three clusters at once starve each other on a small machine.
    """
    if item.get_closest_marker("kubernetes") is None or os.geteuid() != 0:
        return (yield)
    quiet = lock_of(cluster_of_run(), "quiet")
    quiet.parent.mkdir(parents=True, exist_ok=True)
    with quiet.open("w") as lock:
        how = fcntl.LOCK_SH if item.get_closest_marker("disruptive") is None else fcntl.LOCK_EX
        fcntl.flock(lock, how)
        item.config.stash[QUIET] = lock, how
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


@pytest.fixture(scope="session")
def another_cluster() -> Callable[[str], Cluster]:
    """Makes one of a module's own, which is neither up nor taken down: its name ends with the letter that is given."""
    assert os.geteuid() == 0, "a cluster needs root: make test, or make test-unit"
    return lambda letter: Cluster(f"{cluster_of_run().layout.name}{letter}", lambda _: None)


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
def mesh(cluster: Cluster, quietwire_image: str, request: pytest.FixtureRequest) -> Mesh:
    """Agents on both nodes and an authority, as the chart installs them: up and ready.

    While it is installed nobody makes pods, for they would be refused: the webhooks are asked before they answer.
    """
    made = Mesh(cluster, quietwire_image)
    if not made.is_installed:
        quiet, how = request.config.stash[QUIET]
        fcntl.flock(quiet, fcntl.LOCK_EX)  # lets others go first: a lock is not converted in one step (flock(2))
        if not made.is_installed:
            made.install()
        fcntl.flock(quiet, how)
    return made
