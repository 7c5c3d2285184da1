"""The wheel is built from a copy; what it depends on has one name."""

from pathlib import Path

import pytest

from deploy.image import wheel
from deploy.image.wheel import WheelError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in (*wheel.BUILD, "agent/__init__.py", "agent/tls/_openssl.pyx", "init/__init__.py"):
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    return tmp_path / "project"


def test_the_key_changes_with_the_sources_and_not_with_what_is_compiled(project: Path) -> None:
    before = wheel.key_of(project)
    (project / "agent/tls/_openssl.cpython-311.so").write_text("compiled")
    (project / "agent/__pycache__").mkdir()
    (project / "agent/__pycache__/it.pyc").write_text("compiled")
    (project / "tests.py").write_text("no part of the wheel")
    assert wheel.key_of(project) == before
    (project / "agent/tls/_openssl.pyx").write_text("changed")
    assert wheel.key_of(project) != before


def test_a_build_that_fails_says_the_builders_last_words_and_leaves_the_project_alone(
    project: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in project.rglob("*")}
    (tmp_path / "work").mkdir()
    with pytest.raises(WheelError, match=r"(?s)last words:.*Expected '=' after a key"):
        wheel.build(project, tmp_path / "work")
    assert {path: path.stat().st_mtime_ns for path in project.rglob("*")} == before
