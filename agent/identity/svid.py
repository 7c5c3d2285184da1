"""X.509-SVIDs and bundles as values. Times are POSIX seconds, UTC."""

from msgspec import Struct

from agent.identity.spiffe import SpiffeId


class Svid(Struct, frozen=True):
    """One X.509-SVID with its key: SPIFFE X.509-SVID standard, section 2.

    `chain_pem` is leaf first, then intermediates, without the root; `key_pem` is PKCS #8. The key is
    kept out of `repr`, and so out of logs.
    """

    spiffe_id: SpiffeId
    chain_pem: bytes
    key_pem: bytes
    not_before: float
    not_after: float
    serial: str

    def __repr__(self) -> str:
        return f"Svid({self.spiffe_id}, serial={self.serial}, not_after={self.not_after:.0f})"


class Bundle(Struct, frozen=True):
    """The trust anchors of one trust domain: SPIFFE Trust Domain and Bundle standard, section 4.

    `anchors_pem` is one or more concatenated CA certificates; `sequence` grows with each change and is the
    generation that connections remember; `refresh_hint` is in seconds.
    """

    trust_domain: str
    anchors_pem: bytes
    sequence: int
    refresh_hint: int = 300
