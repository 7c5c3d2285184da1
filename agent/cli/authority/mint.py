"""`quietwire authority mint`."""

from pathlib import Path

from agent.cli.authority.flags import WHERE, AsJson, Where
from agent.cli.paragraphs import typed


@typed
def mint(*, spiffe_id: str, out: Path, ttl: str = "1h", where: Where = WHERE, as_json: AsJson = False) -> None:
    """Write an SVID for a workload that has no agent: svid.pem, key.pem (0600) and bundle.pem.

    Example: quietwire authority mint --spiffe-id spiffe://cluster.local/ns/ops/sa/debug --ttl 1h --out debug

    Parameters
    ----------
    spiffe_id
        Whose.
    out
        The directory to write to; made if it is not there.
    ttl
        Its lifetime, never beyond the issuer's.
    """
    from agent.cli.work.authority import minting

    minting.mint(where, spiffe_id, out, ttl, as_json=as_json)
