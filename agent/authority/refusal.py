"""Why the authority says no: each reason has its own code, for machines, and a message, for people."""

import shlex
from enum import StrEnum


class Code(StrEnum):
    """The `code` of an error answer."""

    BAD_REQUEST = "bad_request"
    TOO_LARGE = "too_large"
    BAD_SIGNATURE = "bad_signature"
    KEY_NOT_ALLOWED = "key_not_allowed"
    NO_URI_SAN = "no_uri_san"
    SEVERAL_URI_SANS = "several_uri_sans"
    OTHER_SANS = "other_sans"
    MALFORMED_ID = "malformed_id"
    FOREIGN_TRUST_DOMAIN = "foreign_trust_domain"
    NOT_A_WORKLOAD = "not_a_workload"
    NO_SUCH_WORKLOAD = "no_such_workload"
    UNKNOWN_CALLER = "unknown_caller"
    BAD_TOKEN = "bad_token"  # noqa: S105 - a code, not a secret
    NOT_AUTHENTICATED = "not_authenticated"
    WRONG_AUDIENCE = "wrong_audience"
    WRONG_SERVICE_ACCOUNT = "wrong_service_account"
    WRONG_NODE = "wrong_node"
    NO_NODE = "no_node"
    POD_GONE = "pod_gone"
    REVIEW_UNAVAILABLE = "review_unavailable"
    WRONG_IDENTITY = "wrong_identity"
    REVOKED = "revoked"
    RATE_LIMITED = "rate_limited"
    TOO_SLOW = "too_slow"
    NOT_RECORDED = "not_recorded"
    ISSUER_EXPIRED = "issuer_expired"


STATUS = {
    Code.BAD_REQUEST: 400,
    Code.TOO_LARGE: 413,
    Code.UNKNOWN_CALLER: 401,
    Code.BAD_TOKEN: 401,
    Code.NOT_AUTHENTICATED: 401,
    Code.WRONG_AUDIENCE: 401,
    Code.WRONG_SERVICE_ACCOUNT: 403,
    Code.WRONG_NODE: 403,
    Code.NO_NODE: 403,
    Code.POD_GONE: 403,
    Code.REVIEW_UNAVAILABLE: 503,
    Code.NO_SUCH_WORKLOAD: 403,
    Code.WRONG_IDENTITY: 403,
    Code.REVOKED: 403,
    Code.RATE_LIMITED: 429,
    Code.TOO_SLOW: 408,
    Code.NOT_RECORDED: 503,
    Code.ISSUER_EXPIRED: 503,
}
"""HTTP statuses; 422 for the rest, which is a request whose content cannot be accepted."""


class Refusal(Exception):
    """A request that is refused."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS.get(self.code, 422)

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


def bad_token(problem: str, node: str) -> Refusal:
    """Of a join token, with what to do about it."""
    shown = shlex.quote(node[:253])  # a stranger's word, in a line that an operator may copy
    return Refusal(Code.BAD_TOKEN, f"{problem}; make a new one: quietwire authority token create --node {shown}")
