"""What is kept in the cluster: the webhooks' CAs in a Secret, and in their configurations who is to be believed.

Every replica does the same, again and again, and writes only what is not so yet: with optimistic concurrency, so that
of two the second one looks again. There is no leader that could be away.
"""

import base64
import logging
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from agent.kubernetes.client import MERGE_PATCH, Client
from agent.kubernetes.errors import Refused, Unreachable
from agent.kubernetes.kind import Kind
from agent.webhook.certificates import (
    Authority,
    CertificateError,
    bundle,
    dump,
    living,
    load,
    new_authority,
    wants_another,
)

T = TypeVar("T")

log = logging.getLogger("quietwire.webhook")

SECRETS = Kind("", "v1", "secrets", "Secret")
CONFIGURATIONS = tuple(
    Kind("admissionregistration.k8s.io", "v1", f"{name.lower()}s", name)
    for name in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
)
CONTENT = "authorities.pem"
JSON_PATCH = "application/json-patch+json"
TRIES = 5


class _Meta(Struct, frozen=True):
    resourceVersion: str = ""  # noqa: N815 - as the API has it


class _Secret(Struct, frozen=True):
    metadata: _Meta
    data: dict[str, bytes] | None = None


class _ClientConfig(Struct, frozen=True):
    caBundle: bytes = b""  # noqa: N815 - as the API has it


class _Webhook(Struct, frozen=True):
    clientConfig: _ClientConfig = _ClientConfig()  # noqa: N815 - as the API has it


class _Configuration(Struct, frozen=True):
    metadata: _Meta
    webhooks: list[_Webhook] | None = None


class Kept:
    """The CAs, in one Secret of one namespace, and the two configurations of one name."""

    def __init__(self, client: Client, namespace: str, secret: str, configuration: str) -> None:
        self._client = client
        self._namespace = namespace
        self._secret = secret
        self._configuration = configuration
        self._absent: set[str] = set()
        """Configurations that are not there: said once."""

    async def authorities(self, now: float) -> tuple[Authority, ...]:
        """The CAs that there are, after one that was due has been made. Raises ApiError, CertificateError."""
        for _ in range(TRIES):
            found = await self._read()
            cas = self._loaded(found)
            if not wants_another(cas, now):
                return living(cas, now)
            more = (*living(cas, now), new_authority(now))
            if await self._written(found, more):
                log.info("a new CA for the webhooks is kept in Secret %s/%s", self._namespace, self._secret)
                return more
        raise CertificateError(f"Secret {self._namespace}/{self._secret} is written by somebody else all the time")

    async def publish(self, cas: Sequence[Authority], now: float) -> None:
        """Has the API server believe these CAs, in both configurations. Raises ApiError."""
        wanted = bundle(cas, now)
        for kind in CONFIGURATIONS:
            await self._believe(kind, wanted)

    async def _believe(self, kind: Kind, wanted: bytes) -> None:
        path = kind.path_of("", self._configuration)
        for _ in range(TRIES):
            try:
                found = _decoded(await self._client.get(path), _Configuration)
            except Refused as error:
                if not error.not_found:
                    raise
                if kind.kind not in self._absent:
                    self._absent.add(kind.kind)
                    log.warning("there is no %s %s: nobody asks its webhook", kind.kind, self._configuration)
                return
            self._absent.discard(kind.kind)
            steps = changes(
                found.metadata.resourceVersion, [each.clientConfig.caBundle for each in found.webhooks or ()], wanted
            )
            if not steps:
                return
            try:
                await self._client.request("PATCH", path, body=msgspec.json.encode(steps), content_type=JSON_PATCH)
            except Refused as error:
                if error.status not in {409, 422}:  # of a patch whose test fails
                    raise
                continue
            log.info("%s %s believes the webhooks' CAs now", kind.kind, self._configuration)
            return

    async def _read(self) -> _Secret:
        try:
            answer = await self._client.get(SECRETS.path_of(self._namespace, self._secret))
        except Refused as error:
            if error.not_found:
                raise CertificateError(
                    f"there is no Secret {self._namespace}/{self._secret}: make an empty one, as the chart does"
                ) from error
            raise
        return _decoded(answer, _Secret)

    def _loaded(self, found: _Secret) -> tuple[Authority, ...]:
        try:
            return load((found.data or {}).get(CONTENT, b""))
        except CertificateError as error:
            raise CertificateError(
                f"Secret {self._namespace}/{self._secret} cannot be used: {error}. Empty it, and new CAs are made"
            ) from error

    async def _written(self, found: _Secret, cas: Sequence[Authority]) -> bool:
        """Whether it is kept; not where another replica was quicker. Raises ApiError."""
        body = {
            "metadata": {"resourceVersion": found.metadata.resourceVersion},
            "data": {CONTENT: base64.b64encode(dump(cas)).decode()},
        }
        path = SECRETS.path_of(self._namespace, self._secret)
        try:
            await self._client.request("PATCH", path, body=body, content_type=MERGE_PATCH)
        except Refused as error:
            if error.conflict:
                return False
            raise
        return True


def changes(version: str, now_believed: Sequence[bytes], wanted: bytes) -> list[dict[str, Any]]:
    """The JSON patch after which all webhooks of a configuration believe `wanted`; empty where they do.

    It holds for this version of the configuration alone.
    """
    bundle_text = base64.b64encode(wanted).decode()
    steps = [
        {"op": "add", "path": f"/webhooks/{at}/clientConfig/caBundle", "value": bundle_text}
        for at, believed in enumerate(now_believed)
        if believed != wanted
    ]
    return [{"op": "test", "path": "/metadata/resourceVersion", "value": version}, *steps] if steps else []


def _decoded(answer: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Unreachable(f"what the API server answers is no {kind.__name__.strip('_')}: {error}") from error
