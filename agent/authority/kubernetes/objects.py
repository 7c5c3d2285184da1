"""What an authority's objects hold: Secrets, each with one part of the ledger. Pure.

    <name>-state                  all that is in force, changed at once: rotation, revocations, publication, which keys
    <name>-ca-root-1-<random>     a certificate with its key; means nothing before the state names it
    <name>-token-<hash>           one join token, and whether it was used
    <name>-agents-<0..7>          who has joined and what he confirmed, by a hash of his node's name
    <name>-issued-<replica>-<n>   certificates that one replica has signed, ROWS at most

All are Secrets, so that one list and one watch in one order see everything, and one permission reads it. A Secret may
have 1 MiB (etcd's own limit is 1.5 MiB): see LIMIT, and docs/decisions for what each can come to.
"""

import gzip
import hashlib
import zlib
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from agent.authority.ledger import Issuance
from agent.kubernetes.kind import Kind

T = TypeVar("T")

SECRETS = Kind("", "v1", "secrets", "Secret")
LABEL = "quietwire.io/authority"
CONTENT = "content.json.gz"
CERTIFICATE, KEY = "tls.crt", "tls.key"
KEY_BEGINS = b"-----BEGIN PRIVATE KEY-----"
LIMIT = 900_000
"""Bytes that one object's content may have, packed; Kubernetes lets a Secret have 1,048,576 in all."""
MAX_UNPACKED = 64 * 1024 * 1024
ROWS = 250
"""Of one object of issued certificates: it is written again with each batch until it is full."""
BUCKETS = 8

TYPE = "quietwire.io/authority-"
"""Before the kind of content, as a Secret's type."""


class State(Struct, frozen=True):
    """All that is in force, in one object, so that it changes as one."""

    trust_domain: str
    settings: dict[str, bytes]
    """As the ledger has them: rotation, retired roots, publication."""
    revocations: list[tuple[str, str, str, float]]
    """Kind, value, reason, and when."""
    keys: dict[str, str]
    """Names of roots and issuers, and the Secrets that hold them."""


class Token(Struct, frozen=True):
    """One join token, by its hash; `used` is when it was."""

    hash: bytes
    node: str
    expires: float
    used: float | None


class AgentRow(Struct, frozen=True, array_like=True):
    """One agent that has joined; see ledger.Agent."""

    node: str
    joined: float
    seen: float
    trusts: int
    issuers: str

    @property
    def age(self) -> tuple[float, float]:
        """Of two about one node the greater counts."""
        return self.joined, self.seen


class Agents(Struct, frozen=True):
    """Agents of one bucket."""

    rows: list[AgentRow]


class Issued(Struct, frozen=True):
    """Certificates that were signed."""

    rows: list[Issuance]


class CaKey(Struct, frozen=True):
    """A certificate, with its key unless that was deleted; PEM."""

    pem: bytes


Content = State | Token | Agents | Issued | CaKey
_KINDS: dict[str, type[Content]] = {
    "state": State,
    "token": Token,
    "agents": Agents,
    "issued": Issued,
    "ca": CaKey,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


class Meta(Struct, frozen=True, rename={"version": "resourceVersion", "created": "creationTimestamp"}):
    """An object's metadata, what is used of it."""

    name: str
    version: str = ""
    created: str = ""


class Secret(Struct, frozen=True):
    """A Secret as the API server has it."""

    metadata: Meta
    type: str = ""
    data: dict[str, bytes] | None = None


class UnreadableObjectError(Exception):
    """An object that holds nothing that is known; names it."""


class TooLargeError(Exception):
    """What is to be kept does not fit into one object. `str` says what, and what helps."""


def state_name(authority: str) -> str:
    """The one object that says what is in force."""
    return f"{authority}-state"


def ca_name(authority: str, key: str, chance: str) -> str:
    """A new one for `root-1.pem`."""
    return f"{authority}-ca-{key.removesuffix('.pem')}-{chance}"


def token_name(authority: str, hashed: bytes) -> str:
    """One token's; 128 bits of its hash."""
    return f"{authority}-token-{hashed.hex()[:32]}"


def agents_name(authority: str, bucket: int) -> str:
    """One bucket's."""
    return f"{authority}-agents-{bucket}"


def issued_name(authority: str, replica: str, number: int) -> str:
    """A replica's own, one after the other."""
    return f"{authority}-issued-{replica}-{number}"


def bucket_of(node: str) -> int:
    """Where an agent's row is, the same everywhere."""
    return zlib.crc32(hashlib.sha256(node.encode()).digest()) % BUCKETS


def encode(authority: str, name: str, content: Content, version: str = "") -> Mapping[str, Any]:
    """A Secret to be written; with a version, only if it is still that one. Raises TooLargeError."""
    metadata: dict[str, Any] = {"name": name, "labels": {LABEL: authority}}
    if version:
        metadata["resourceVersion"] = version
    return {
        "apiVersion": SECRETS.api_version,
        "kind": SECRETS.kind,
        "metadata": metadata,
        "type": TYPE + _NAMES[type(content)],
        "data": _data(name, content),
    }


def _data(name: str, content: Content) -> dict[str, bytes]:
    if isinstance(content, CaKey):
        certificate, begins, key = content.pem.partition(KEY_BEGINS)
        return {CERTIFICATE: certificate, KEY: begins + key}
    packed = gzip.compress(msgspec.json.encode(content), 6, mtime=0)
    if len(packed) > LIMIT:
        raise TooLargeError(
            f"Secret {name} would have {len(packed)} bytes, over the limit of {LIMIT}: take back revocations whose "
            f"certificates have expired, and rotate the root where a whole node's must go"
        )
    return {CONTENT: packed}


def decode(secret: Secret) -> Content:
    """What a Secret holds. Raises UnreadableObjectError: whoever needs it stops."""
    name, data = secret.metadata.name, secret.data or {}
    kind = _KINDS.get(secret.type.removeprefix(TYPE)) if secret.type.startswith(TYPE) else None
    if kind is None:
        raise UnreadableObjectError(f"Secret {name} is of type {secret.type!r}, which is none of an authority's")
    try:
        if kind is CaKey:
            return CaKey(data[CERTIFICATE] + data.get(KEY, b""))
        return msgspec.json.decode(_unpacked(data[CONTENT]), type=kind)
    except (KeyError, OSError, EOFError, zlib.error, msgspec.MsgspecError) as error:
        raise UnreadableObjectError(
            f"Secret {name} cannot be read ({type(error).__name__}: {error}): restore it from a backup"
        ) from error


def _unpacked(packed: bytes) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    found = stream.decompress(packed, MAX_UNPACKED)
    if not stream.eof:
        raise EOFError("it ends in its middle, or is too large")
    return found


def is_key(found: Secret) -> bool:
    """Whether it holds a certificate with its key."""
    return found.type == f"{TYPE}ca"
