"""One pod, asked for anew: with what its namespace says, and an error where that cannot be told."""

import asyncio
import json
from typing import Any

import pytest

from agent.catalog.sources.kubernetes import asking
from agent.catalog.sources.kubernetes.asking import Asking
from agent.kubernetes.client import Client
from agent.kubernetes.errors import ApiError, Refused, Unreachable
from agent.objects.key import pod_key

API = pod_key("demo", "api")
INJECT = "linkerd.io/inject"


class Server(Client):
    """What is at each path; an error is raised, and None hangs."""

    def __init__(self, **there: Any) -> None:
        self.there = {f"/api/v1/{path.replace('__', '/')}": what for path, what in there.items()}

    async def get(self, path: str, query: Any = None, *, accept: str = "") -> bytes:
        del query, accept
        found = self.there.get(path, Refused(404, "NotFound", "not found"))
        if found is None:
            await asyncio.Event().wait()
        if isinstance(found, Exception):
            raise found
        return found if isinstance(found, bytes) else json.dumps(found).encode()


def an_object(name: str, annotations: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"u-{name}", "annotations": annotations or {}}, **fields}


def a_pod(annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    made = an_object("api", annotations, spec={"nodeName": "n1", "containers": [{"name": "main"}], **spec})
    made["metadata"]["namespace"] = "demo"
    return made


def server(space: Any, pod: Any) -> Server:
    return Server(namespaces__demo=space, namespaces__demo__pods__api=pod)


@pytest.mark.parametrize(
    ("of_namespace", "of_pod", "injected"),
    [
        ({}, {}, False),
        ({INJECT: "enabled"}, {}, True),
        ({INJECT: "enabled"}, {INJECT: "disabled"}, False),
        ({}, {INJECT: "enabled"}, True),
        ({INJECT: "sideways"}, {}, True),  # what cannot be understood closes
        ({}, {INJECT: "sideways"}, True),
    ],
)
async def test_a_pod_is_meshed_as_its_namespace_and_itself_say(
    of_namespace: dict[str, str], of_pod: dict[str, str], injected: bool
) -> None:
    found = await Asking(server(an_object("demo", of_namespace), a_pod(of_pod)), beside_linkerd=False).pod(API)
    assert found is not None
    assert (found.uid, found.settings.injected) == ("u-api", injected)


async def test_on_the_hosts_network_and_in_a_namespace_of_linkerds_it_is_not() -> None:
    meshed = an_object("demo", {INJECT: "enabled"})
    asked = Asking(server(meshed, a_pod(hostNetwork=True)), beside_linkerd=False)
    assert (found := await asked.pod(API)) is not None
    assert not found.settings.injected
    assert (found := await Asking(server(meshed, a_pod()), beside_linkerd=True).pod(API)) is not None
    assert not found.settings.injected


async def test_what_is_not_there_is_none() -> None:
    assert await Asking(Server(namespaces__demo=an_object("demo")), beside_linkerd=False).pod(API) is None
    assert await Asking(Server(namespaces__demo__pods__api=a_pod()), beside_linkerd=False).pod(API) is None


@pytest.mark.parametrize("answer", [Unreachable("away"), Refused(403, "Forbidden", "may not"), b"\xff", b"[]", b"{}"])
@pytest.mark.parametrize("about", ["the pod", "the namespace"])
async def test_what_cannot_be_told_is_an_error_and_never_no(answer: Any, about: str) -> None:
    asked = server(answer, a_pod()) if about == "the namespace" else server(an_object("demo"), answer)
    with pytest.raises(ApiError):
        await Asking(asked, beside_linkerd=False).pod(API)


async def test_an_api_server_that_says_nothing_is_waited_for_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ASK_SECONDS", 0.01)
    with pytest.raises(Unreachable, match="did not answer"):
        await Asking(server(an_object("demo"), None), beside_linkerd=False).pod(API)
