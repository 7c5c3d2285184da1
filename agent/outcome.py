"""How a connection ended: the one enum that metrics, the access log, messages and tests share."""

from enum import StrEnum


class Outcome(StrEnum):
    """Why a connection ended, or was never made. The value is the metric's label and the log's field."""

    COMPLETED = "completed"
    """Both directions ended cleanly."""
    RESET_BY_APPLICATION = "reset_by_application"
    RESET_BY_PEER = "reset_by_peer"
    TRUNCATED = "truncated"
    """TLS ended without close_notify (RFC 8446, section 6.1): never a clean end."""
    TIMED_OUT = "timed_out"
    """The kernel gave the connection up: keepalives or retransmissions went unanswered."""
    DRAINED = "drained"
    """Ended by the agent's own shutdown, after the drain timeout."""
    UNENROLLED = "unenrolled"
    """The pod left the mesh or this node while the connection was open."""
    UNREACHABLE = "unreachable"
    """The destination refused, reset or did not answer the agent's own connect()."""

    # Denials: ourselves.
    FAILED = "failed"
    """A fault of the agent itself; the log has the traceback."""

    EXHAUSTED = "exhausted"
    """The agent, or the machine, had no descriptors or no memory left to dial with."""

    # Denials: policy.
    UNAUTHENTICATED = "unauthenticated"
    """Policy demands mutual TLS and the client came without."""
    IDENTITY_NOT_PERMITTED = "identity_not_permitted"
    NETWORK_NOT_PERMITTED = "network_not_permitted"
    DENIED_BY_DEFAULT = "denied_by_default"
    """Nothing allows anybody: the default policy is `deny`, or a Server has no authorization."""
    ROUTE_LEVEL_ONLY = "route_level_only"
    """Only routes of the Server have authorizations, and routes are not enforced yet."""
    POLICY_INCOMPLETE = "policy_incomplete"
    """Every authorization lets nobody in: what they refer to does not exist, or is empty."""
    TERMINATED = "terminated"
    """Was permitted, and no longer is: closed by re-authorization."""

    # Denials: TLS and identity.
    CLIENT_HELLO_TOO_LARGE = "client_hello_too_large"
    CLIENT_HELLO_MALFORMED = "client_hello_malformed"
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    HANDSHAKE_FAILED = "handshake_failed"
    """A TLS alert or protocol error that no other outcome names; the log has OpenSSL's words."""
    TLS_VERSION = "tls_version"
    """The client does not offer TLS 1.3."""
    NO_APPLICATION_PROTOCOL = "no_application_protocol"
    CERTIFICATE_UNTRUSTED = "certificate_untrusted"
    CERTIFICATE_EXPIRED = "certificate_expired"
    """Expired or not yet valid, on a resumed session too."""
    CERTIFICATE_MISSING = "certificate_missing"
    NOT_AN_SVID = "not_an_svid"
    """The certificate, or one above it, breaks another rule of X.509-SVID: the log says which."""
    NO_URI_SAN = "no_uri_san"
    SEVERAL_URI_SANS = "several_uri_sans"
    SPIFFE_ID_MALFORMED = "spiffe_id_malformed"
    FOREIGN_TRUST_DOMAIN = "foreign_trust_domain"
    WRONG_SERVER_IDENTITY = "wrong_server_identity"
    """The server's SVID is not the one that the catalog names for this address."""
    IDENTITY_REVOKED = "identity_revoked"
    """The certificate, or the identity in it, is revoked, or its root has left the bundle."""
    TLS_FLOOD = "tls_flood"
    """The peer sent message upon message without application data (KeyUpdates), or asked for answers and read none."""
    REFUSED_BY_PEER = "refused_by_peer"
    """The other side ended the connection with a TLS alert: its log has the reason."""

    # Denials: outbound and listeners.
    NO_ENDPOINT = "no_endpoint"
    """The service has no ready endpoint, or does not have this port."""
    EGRESS_NOT_MESHED = "egress_not_meshed"
    DIRECT_TO_LISTENER = "direct_to_listener"
    """Dialled the agent's own port: it has itself as its original destination."""
    NOT_A_POD_ADDRESS = "not_a_pod_address"
    """Arrived in a pod for an address that the catalog does not give to it: the agent forwards for nobody else."""
    TOO_MANY_OPENING = "too_many_opening"
    """One source, or all strangers together, have too many connections in set-up at once."""
    NO_IDENTITY = "no_identity"
    """The pod has no valid SVID at the moment."""

    @property
    def is_denial(self) -> bool:
        """Whether this outcome counts in `quietwire_denials_total`."""
        return self not in _NOT_DENIALS


_NOT_DENIALS = frozenset(
    {
        Outcome.COMPLETED,
        Outcome.RESET_BY_APPLICATION,
        Outcome.RESET_BY_PEER,
        Outcome.TRUNCATED,
        Outcome.TIMED_OUT,
        Outcome.DRAINED,
        Outcome.UNENROLLED,
        Outcome.UNREACHABLE,
    }
)
