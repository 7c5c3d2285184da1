"""What init writes to files, whatever lies in their place."""

from pathlib import Path

import pytest

from init.kernel import replace_file


@pytest.mark.parametrize("lies_there", ["nothing", "a file", "a link to another's file", "a link to nothing"])
def test_a_file_is_replaced_and_never_written_through(tmp_path: Path, lies_there: str) -> None:
    """Whoever may write to the directory would else choose which file of the host is overwritten."""
    path, others = tmp_path / "run" / "memory.json", tmp_path / "others"
    path.parent.mkdir()
    others.write_text("others'")
    match lies_there:
        case "a file":
            path.write_text("former")
        case "a link to another's file":
            path.symlink_to(others)
        case "a link to nothing":
            path.symlink_to(tmp_path / "nothing")
    replace_file(path, b"new")
    assert not path.is_symlink()
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert others.read_text() == "others'"
    assert sorted(each.name for each in path.parent.iterdir()) == ["memory.json"]
    assert not (tmp_path / "nothing").exists()


def test_the_temporary_name_is_no_way_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = tmp_path / "others"
    others.write_text("others'")
    monkeypatch.setattr("os.getpid", lambda: 7)
    (tmp_path / ".memory.json.7").symlink_to(others)
    replace_file(tmp_path / "memory.json", b"new")
    assert others.read_text() == "others'"
