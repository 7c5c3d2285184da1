"""The memory of what was last good: damaged, of another version, or on a disk that has no room."""

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.catalog.memory import DIGEST_BYTES, VERSION
from agent.catalog.sources.files.directory import FilesSource
from agent.catalog.sources.files.remembered import FilesMemory
from agent.catalog.standing import Known
from agent.objects.policy import BrokenServer
from agent.tasks import spawn

SERVER = """
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: strict, namespace: demo}
spec: {podSelector: {matchLabels: {app: api}}, port: 8080}
"""


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """A directory with one Server, which was in force before; now its file says nothing that can be read."""
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "server.yaml").write_text(SERVER)
    source, memory = start(directory, tmp_path / "memory")
    assert memory.save(source._standings.known)
    (directory / "server.yaml").write_text("kind: [")
    return directory


def start(directory: Path, path: Path) -> tuple[FilesSource, FilesMemory]:
    """What an agent knows that starts now."""
    memory = FilesMemory(path, directory)
    source = FilesSource(directory, lambda *_: None, memory)
    source.load()
    return source, memory


def kinds(known: Known) -> list[str]:
    """Of what is in force, and of each file that closes every default."""
    return [type(each.raw).__name__ for each in known.standing.values()] + ["closed"] * len(known.closing)


def sealed(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """Another version's: not damaged, and with other fields."""

    def changed(written: bytes) -> bytes:
        content = msgspec.msgpack.decode(written[len(VERSION) + DIGEST_BYTES :])
        change(content)
        body = msgspec.msgpack.encode(content)
        return VERSION + hashlib.sha256(body).digest() + body

    return changed


def test_what_was_written_is_taken_back(manifests: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, _ = start(manifests, tmp_path / "memory")
    assert kinds(source._standings.known) == ["Server"]
    assert caplog.records == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda _: b"", "it is empty"),
        (lambda _: os.urandom(4096), "it is of another version, or cut off"),
        (lambda written: written[len(VERSION) + DIGEST_BYTES :], "it is of another version, or cut off"),
        (lambda written: written[:10], "it is of another version, or cut off"),
        (lambda written: written.replace(b" 1\n", b" 2\n", 1), "it is of another version, or cut off"),
        (lambda written: written[: len(VERSION) + 5], "it is damaged"),
        (lambda written: written[:-1], "it is damaged"),
        (lambda written: written + b"\0", "it is damaged"),
        (lambda written: written.replace(b"server.yaml", b"server.yam\xff"), "it is damaged"),
        (lambda written: written.replace(b"strict", b"struct"), "it is damaged"),
        (sealed(lambda content: content.pop("closing")), "it is of another version: Object missing required field"),
        (sealed(lambda content: content["standing"][0][1].pop("raw")), "it is of another version: Object missing"),
        (
            sealed(lambda content: content["standing"][0][1]["raw"].update(type="Serving")),
            "it is of another version: Invalid value 'Serving'",
        ),
        (sealed(lambda content: content.update(standing={})), "it is of another version: Expected `array`"),
    ],
)
def test_what_cannot_be_used_is_named_and_what_cannot_be_read_then_closes_every_default(
    manifests: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[bytes], bytes],
    words: str,
) -> None:
    path = tmp_path / "memory"
    path.write_bytes(damage(path.read_bytes()))
    source, memory = start(manifests, path)
    assert kinds(source._standings.known) == ["closed"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"{path} cannot be used ({words}")
    assert "closes every default until it is mended" in record.getMessage()

    assert memory.save(source._standings.known), "and is written anew"
    caplog.clear()
    again, _ = start(manifests, path)
    assert kinds(again._standings.known) == ["closed"]
    assert caplog.records == []


def test_a_field_that_a_later_version_has_is_passed_over(manifests: Path, tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(sealed(lambda content: content.update(later=[1]))(path.read_bytes()))
    source, _ = start(manifests, path)
    assert kinds(source._standings.known) == ["Server"]


def test_no_single_changed_byte_is_taken_for_what_was_written(manifests: Path, tmp_path: Path) -> None:
    path = tmp_path / "memory"
    written = path.read_bytes()
    for at in range(len(written)):
        path.write_bytes(written[:at] + bytes([written[at] ^ 0x80]) + written[at + 1 :])
        assert FilesMemory(path, manifests).load() is None


async def test_what_could_not_be_written_is_tried_again_and_said_once(
    manifests: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("agent.catalog.sources.files.directory.MEMORY_SECONDS", 0.0)
    path = tmp_path / "elsewhere" / "memory"
    memory = FilesMemory(path, manifests)
    tried: asyncio.Queue[bool] = asyncio.Queue()
    save = memory.save
    loop = asyncio.get_running_loop()

    def saved(known: Known) -> bool:
        done = save(known)
        loop.call_soon_threadsafe(tried.put_nowait, done)
        return done

    monkeypatch.setattr(memory, "save", saved)
    source = FilesSource(manifests, lambda *_: None, memory)
    await source.start()
    running = spawn(source.run(), name="catalog")
    assert [await tried.get() for _ in range(3)] == [False] * 3
    path.parent.mkdir()
    while not await tried.get():
        pass
    running.cancel()
    await asyncio.wait([running])
    assert BrokenServer.__name__ not in kinds(source._standings.known)
    found = memory.load()
    assert found is not None
    assert kinds(found) == ["closed"]
    said = [each for each in caplog.records if str(path) in each.getMessage()]
    assert [each.levelname for each in said] == ["ERROR", "INFO"]
    assert "No such file or directory" in said[0].getMessage()
