"""From a checkout to an image: its name, its bound, and that the recipe for a registry says the same."""

import tomllib
from pathlib import Path

import pytest

from deploy.image import archive, build, packages, root, wheel
from deploy.image.build import HERE, PROJECT, TooLargeError


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the archive stands in: a file system of one file."""

    def furnish(made: Path, *_: object) -> None:
        (made / "it").write_bytes(b"\0" * 100_000)

    monkeypatch.setattr(root, "furnish", furnish)
    monkeypatch.setattr(wheel, "build", lambda *_: Path("it.whl"))
    monkeypatch.setattr(packages, "resolve", lambda _: ("it_1_all.deb",))
    monkeypatch.setattr(packages, "fetch", lambda *_: [])


def test_an_image_is_made_once_and_has_the_projects_version(parts: None, tmp_path: Path) -> None:
    said: list[str] = []
    first = build.make(said.append, {"XDG_CACHE_HOME": str(tmp_path)})
    assert "writing the archive" in said
    said.clear()
    again = build.make(said.append, {"XDG_CACHE_HOME": str(tmp_path)})
    assert (again, said) == (first, [])
    assert first.archive.is_file()
    with (PROJECT / "pyproject.toml").open("rb") as file:
        assert first.name == f"localhost/quietwire:{tomllib.load(file)['project']['version']}"


def test_one_that_is_too_large_is_refused_and_not_kept(
    parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "MOST", 90_000)
    with pytest.raises(TooLargeError, match=r"MB unpacked, and may have 0\.09 MB"):
        build.make(lambda _: None, {"XDG_CACHE_HOME": str(tmp_path)})
    assert not list(tmp_path.rglob("image.tar"))


def stages() -> list[list[str]]:
    """The recipe's instructions by stage, without comments and with lines that go on put together."""
    text = (HERE / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found: list[list[str]] = []
    for line in lines:
        if line.startswith("FROM "):
            found.append([])
        if found:
            found[-1].append(" ".join(line.split()))
    return found


def test_the_recipe_makes_its_file_system_by_the_same_program_from_the_same_list() -> None:
    builder, result = stages()
    assert any("python -m deploy.image --root /image" in line for line in builder)
    assert result[0] == "FROM scratch"
    assert [line for line in result if line.startswith(("RUN", "ADD", "COPY"))] == ["COPY --from=build /image /"]


def test_the_recipes_image_starts_as_ours_does() -> None:
    _, result = stages()
    assert f'ENTRYPOINT ["/{root.COMMAND}"]' in result
    assert 'CMD ["--help"]' in result
    assert f"ENV {archive.PATH} {build.ENVIRONMENT}" in result
    assert not [line for line in result if line.startswith("USER")]  # a node's agent is root


def test_the_recipe_installs_to_build_with_what_make_does() -> None:
    builder, _ = stages()
    assert "RUN apt-get update && make .venv/.runtime" in builder
