"""Documents say where things are: what they name is there, and rooms, dependencies and decisions are complete."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
DECISIONS = ROOT / "docs" / "decisions"
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for directory in (ROOT, ROOT / "docs", DECISIONS, ROOT / "bench")
    for path in directory.glob("*.md")
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED_PATH = re.compile(r"`((?:agent|init|tests|bench|deploy|docs)/[\w./-]+)`")
LOW = ["agent.disk", "agent.flags", "agent.outcome", "agent.process", "agent.tasks"]
"""Modules of one layer, which the table of rooms has in one row."""


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def architecture() -> str:
    return (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def anchors(document: str) -> set[str]:
    """What headings are called in links, as GitHub has it."""
    headings = re.findall(r"^#+ (.+)$", document, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path) -> Iterator[str]:
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        if link.startswith(("https://", "http://")):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            yield link


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_what_a_document_links_to_and_names_is_there(document: Path) -> None:
    path = ROOT / document
    named = NAMED_PATH.findall(path.read_text(encoding="utf-8"))
    assert list(broken_links(path)) == []
    assert [each for each in named if not (ROOT / each).exists() and not (ROOT / f"{each}.py").exists()] == []


def test_each_decision_is_in_the_index_by_its_own_heading() -> None:
    index = (DECISIONS / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- \[(.+)\]\((.+)\)$", index, re.MULTILINE)
    pages = {path.name: path.read_text(encoding="utf-8") for path in DECISIONS.glob("*.md") if path.name != "README.md"}
    headings = [(page.partition("\n")[0].removeprefix("# "), name) for name, page in pages.items()]
    assert sorted(listed) == sorted(headings)


def test_each_decision_says_why_and_where() -> None:
    for path in DECISIONS.glob("*.md"):
        if path.name != "README.md":
            page = path.read_text(encoding="utf-8")
            assert [part for part in ("**Decided.**", "**Why.**", "**Where.**") if part not in page] == [], path.name


def test_rooms_are_in_the_order_that_lint_checks(project: dict[str, Any], architecture: str) -> None:
    (contract,) = project["tool"]["importlinter"]["contracts"]
    layers = [layer.split(" | ") for layer in reversed(contract["layers"])]
    table = architecture.partition("| room |")[2].partition("\n\n")[0]
    rooms = re.findall(r"^\| `([\w/]+)`", table, re.MULTILINE)
    assert [LOW if room == "agent/disk" else [room.strip("/").replace("/", ".")] for room in rooms] == layers


def test_each_dependency_has_its_reason(project: dict[str, Any], architecture: str) -> None:
    named = project["project"]
    every = [*named["dependencies"], *project["build-system"]["requires"]]
    every += [each for extra in named["optional-dependencies"].values() for each in extra]
    section = architecture.partition("\n## Dependencies\n")[2].partition("\n## ")[0]
    names = [re.split(r"[<>=]", each)[0] for each in every]
    assert [name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", section)] == []
