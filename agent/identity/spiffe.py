"""SPIFFE IDs: SPIFFE-ID standard, section 2. A parser that accepts exactly what the standard allows."""

import base64
import hashlib
import re
from functools import lru_cache
from typing import Self

from msgspec import Struct

MAX_ID_BYTES = 2048
"""SPIFFE-ID, section 2.3: implementations must not make longer ones."""
MAX_TRUST_DOMAIN_BYTES = 255
MAX_NAME = 255
"""Characters of a server's name: OpenSSL's TLSEXT_MAXLEN_host_name."""
MAX_LABEL = 63
"""Characters of one label in it: RFC 1035, section 2.3.4."""

# fullmatch everywhere: `$` would accept a trailing newline.
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+")


class SpiffeIdError(ValueError):
    """A text that is no SPIFFE ID. Fields: `text`, what was given, and `reason`."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text, reason)
        self.text = text
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.text[:120]!r} is not a SPIFFE ID: {self.reason}"


class SpiffeId(Struct, frozen=True, order=True):
    """A SPIFFE ID; `path` is empty or begins with a slash."""

    trust_domain: str
    path: str

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.path}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses one ID. Raises SpiffeIdError, naming the rule that was broken."""
        if len(text.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
            raise SpiffeIdError(text, f"longer than {MAX_ID_BYTES} bytes")
        scheme, separator, rest = text.partition("://")
        if not separator or scheme.lower() != "spiffe":  # RFC 3986, section 3.1: schemes ignore case
            raise SpiffeIdError(text, "the scheme is not spiffe://")
        authority, slash, path = rest.partition("/")
        check_trust_domain(authority, text)
        if slash:
            for segment in path.split("/"):
                if not segment:
                    raise SpiffeIdError(text, "the path has an empty segment or a trailing slash")
                if segment in {".", ".."}:
                    raise SpiffeIdError(text, "the path has a relative segment")
                if not _SEGMENT.fullmatch(segment):
                    raise SpiffeIdError(
                        text, f"path segment {segment[:40]!r} has a character outside A-Z a-z 0-9 . - _"
                    )
        return cls(authority, slash + path)

    @classmethod
    def for_service_account(cls, trust_domain: str, namespace: str, service_account: str) -> Self:
        """The identity of a workload: `spiffe://<td>/ns/<namespace>/sa/<service account>`. Raises SpiffeIdError."""
        text = f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"
        if "/" in namespace or "/" in service_account:  # it would be another workload's path, or none's
            raise SpiffeIdError(text, "a namespace or service account has a slash")
        return cls.parse(text)

    @classmethod
    def for_agent(cls, trust_domain: str, node: str) -> Self:
        """The identity of the agent of one node: `spiffe://<td>/agent/<node>`."""
        if "/" in node:
            raise SpiffeIdError(f"spiffe://{trust_domain}/agent/{node}", "the node's name has a slash")
        return cls.parse(f"spiffe://{trust_domain}/agent/{node}")

    @property
    def workload(self) -> tuple[str, str] | None:
        """(namespace, service account) where the path is `/ns/<namespace>/sa/<service account>`, else None."""
        match self.path.split("/"):
            case ["", "ns", namespace, "sa", service_account]:
                return namespace, service_account
            case _:
                return None

    @property
    def agent(self) -> str | None:
        """The node whose agent this is, where the path is `/agent/<node>`, else None."""
        match self.path.split("/"):
            case ["", "agent", node]:
                return node
            case _:
                return None

    @property
    def dns_name(self) -> str | None:
        """The SNI name and DNS SAN, `<sa>.<ns>.serviceaccount.identity.<td>`; None where it is no workload.

        Names that Kubernetes allows can be too long for it (a service account of 199 characters, say). Then it is a
        stand-in, which both sides make from the ID alone: `<SHA-256 of the ID, base32>.serviceaccount.identity.<td>`,
        without the trust domain where even that is too long. Nobody's own name has that form, because it has a label
        less.
        """
        return _dns_name(self)


def _fits(name: str) -> bool:
    return len(name) <= MAX_NAME and all(0 < len(label) <= MAX_LABEL for label in name.split("."))


@lru_cache(maxsize=4096)
def _dns_name(spiffe_id: SpiffeId) -> str | None:
    if spiffe_id.workload is None:
        return None
    namespace, service_account = spiffe_id.workload
    name = f"{service_account}.{namespace}.serviceaccount.identity.{spiffe_id.trust_domain}"
    if _fits(name):
        return name
    digest = base64.b32encode(hashlib.sha256(str(spiffe_id).encode()).digest()).decode("ascii").rstrip("=").lower()
    stand_in = f"{digest}.serviceaccount.identity"
    longer = f"{stand_in}.{spiffe_id.trust_domain}"
    return longer if _fits(longer) else stand_in


def check_trust_domain(name: str, text: str | None = None) -> None:
    """Raises SpiffeIdError unless `name` is a trust domain name: SPIFFE-ID standard, section 2.1."""
    shown = name if text is None else text
    if not name:
        raise SpiffeIdError(shown, "the trust domain is empty")
    if len(name) > MAX_TRUST_DOMAIN_BYTES:
        raise SpiffeIdError(shown, f"the trust domain is longer than {MAX_TRUST_DOMAIN_BYTES} bytes")
    if not _TRUST_DOMAIN.fullmatch(name):
        raise SpiffeIdError(shown, "the trust domain has a character outside a-z 0-9 . - _")
