"""What is copied of the virtual environment is what the lock file says, in that version."""

from pathlib import Path

import pytest

from deploy.image import distributions
from deploy.image.build import PROJECT
from deploy.image.distributions import LockError

LOCK = """
h11==0.16.0 \\
    --hash=sha256:00
win-inet-pton==1.1.0 ; sys_platform == 'win32' \\
    --hash=sha256:00
"""


def test_a_lock_file_is_names_and_versions_for_this_machine() -> None:
    assert distributions.locked(LOCK) == {"h11": "0.16.0"}


def test_ours_has_every_dependency_that_the_project_names() -> None:
    locked = distributions.locked((PROJECT / "requirements.lock").read_text())
    assert {"uvloop", "cryptography", "msgspec", "python-iptables"} <= locked.keys()
    assert not {"pytest", "cython", "mypy"} & locked.keys()


def test_files_are_copied_as_far_as_they_are_kept(tmp_path: Path) -> None:
    version = distributions.locked((PROJECT / "requirements.lock").read_text())["h11"]
    distributions.copy({"h11": version}, tmp_path, lambda path: not path.endswith(("RECORD", ".pyc")), "site")
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"h11/__init__.py", f"h11-{version}.dist-info/METADATA"} <= found
    assert not [each for each in found if each.endswith(("RECORD", ".pyc"))]


def test_another_version_is_refused_by_name_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LockError, match=r"h11 .* is installed, and requirements.lock says 0.0.1: run `make image`"):
        distributions.copy({"h11": "0.0.1"}, tmp_path, lambda _: True, "site")
    with pytest.raises(LockError, match="h12 is not installed"):
        distributions.copy({"h12": "0.0.1"}, tmp_path, lambda _: True, "site")
