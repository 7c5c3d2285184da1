"""What a namespace says of being meshed, as the API server answers now; whatever cannot be read says yes."""

import asyncio
import json
from typing import Any, cast

import pytest

from agent.catalog.sources.kubernetes import reading
from agent.kubernetes.client import Client
from agent.kubernetes.errors import Refused, Unreachable
from agent.webhook import namespaces
from agent.webhook.namespaces import Namespaces, NotToldError, of


def namespace(name: str, inject: Any = None) -> bytes:
    annotations = {} if inject is None else {"linkerd.io/inject": inject}
    return json.dumps({"metadata": {"name": name, "uid": name, "annotations": annotations}}).encode()


class Asked:
    """An API server that gives one answer, or fails so, or never answers."""

    def __init__(self, answer: bytes | Exception | None) -> None:
        self.answer = answer
        self.paths: list[str] = []

    async def get(self, path: str, *, accept: str) -> bytes:
        assert "PartialObjectMetadata" in accept, "no more of it is wanted"
        self.paths.append(path)
        if self.answer is None:
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        assert self.answer is not None
        return self.answer


def asking(answer: bytes | Exception | None) -> tuple[Namespaces, Asked]:
    asked = Asked(answer)
    return Namespaces(cast("Client", asked)), asked


@pytest.mark.parametrize("inject", ["enabled", "disabled", "ingress", None])
async def test_what_it_says_is_what_its_annotation_says_now(inject: str | None) -> None:
    known, asked = asking(namespace("demo", inject))
    assert await known.says("demo") == inject
    asked.answer = namespace("demo", "enabled")
    assert await known.says("demo") == "enabled", "nothing is remembered"
    assert asked.paths == ["/api/v1/namespaces/demo"] * 2


async def test_one_that_is_gone_says_enabled() -> None:
    known, _ = asking(Refused(404, "NotFound", "namespaces demo not found"))
    assert await known.says("demo") == "enabled"


async def test_what_is_in_no_namespace_is_not_asked_about() -> None:
    known, asked = asking(Unreachable("refused"))
    assert await known.says("") == "enabled"
    assert asked.paths == []


@pytest.mark.parametrize("failure", [Unreachable("connection refused"), Refused(403, "Forbidden", "may not")], ids=str)
async def test_where_the_api_server_cannot_be_asked_nobody_can_tell(failure: Exception) -> None:
    known, _ = asking(failure)
    with pytest.raises(NotToldError, match=str(failure)[:7]):
        await known.says("demo")


async def test_an_answer_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "ASK_SECONDS", 0.01)
    known, _ = asking(None)
    with pytest.raises(NotToldError, match="did not answer"):
        await known.says("demo")


@pytest.mark.parametrize("inject", ["Enabled", "yes", 3, []], ids=str)
def test_what_cannot_be_understood_says_enabled(inject: Any) -> None:
    assert of(namespace("demo", inject)) == "enabled"


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"metadata": {"name": "../x"}}'])
def test_what_is_no_namespace_says_enabled(raw: bytes) -> None:
    assert of(raw) == "enabled"


def test_another_fault_leaves_what_it_says() -> None:
    broken = json.loads(namespace("off", "disabled"))
    broken["metadata"]["annotations"]["config.linkerd.io/skip-inbound-ports"] = "x"
    assert of(json.dumps(broken).encode()) == "disabled"


def test_one_that_a_fault_of_ours_keeps_from_being_read_says_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(key: object, document: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(reading, "decode", fault)
    assert of(namespace("off", "disabled")) == "enabled"
