"""Fixtures of the scenarios. A scenario that cannot run fails: nothing is skipped."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.netns.world import World


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this directory needs root and namespaces."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.netns)


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    assert os.geteuid() == 0, "scenarios make network namespaces: run them as root (make test), or make test-unit"


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes worlds, and takes them down after the test."""
    made: list[World] = []

    def make(*flags: str, workers: int = 2, **more: Any) -> World:
        directory = tmp_path / f"world{len(made)}"
        directory.mkdir()
        made.append(World(directory, *flags, workers=workers, **more))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture(scope="module")
def make_shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., World]]:
    """The same, for worlds that the tests of one module share."""
    made: list[World] = []

    def make(*flags: str, workers: int = 2) -> World:
        made.append(World(tmp_path_factory.mktemp("world"), *flags, workers=workers))
        return made[-1]

    yield make
    for world in made:
        world.close()
