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
    issuer_key_id: str = ""
    """Key identifier of whom it is signed by, hex; empty where the certificate does not say."""

    def __repr__(self) -> str:
        return f"Svid({self.spiffe_id}, serial={self.serial}, not_after={self.not_after:.0f})"


class Bundle(Struct, frozen=True):
    """The trust anchors of one trust domain: SPIFFE Trust Domain and Bundle standard, section 4.

    `anchors_pem` is one or more concatenated CA certificates; `sequence` grows with each change; `refresh_hint` is
    in seconds. Beside the anchors comes what an authority of ours says: the key identifier (hex) of the issuer that
    new SVIDs are under and when it expires, POSIX seconds; the SPIFFE IDs and serials (hex) that are revoked; and the
    anchors (SHA-256, hex) that have left in order, so that connections which they vouched for may live on.
    """

    trust_domain: str
    anchors_pem: bytes
    sequence: int
    refresh_hint: int = 300
    issuer_key_id: str = ""
    issuer_expires: float = 0.0
    revoked_ids: frozenset[str] = frozenset()
    revoked_serials: frozenset[str] = frozenset()
    retired: frozenset[str] = frozenset()
    left_out: tuple[str, ...] = ()
    """What came with it and is no root, in words: it is not among the anchors."""

    def revokes(self, spiffe_id: SpiffeId, serial: str) -> bool:
        """Whether nobody may accept this identity, or this certificate of it."""
        return serial in self.revoked_serials or (bool(self.revoked_ids) and str(spiffe_id) in self.revoked_ids)
