"""What `up` and `authority run` are told about issuing, checked: how long SVIDs live, and whose issuer signs them."""

from agent.authority.pki import GivenFiles
from agent.cli.agent_flags import Issuing
from agent.flags import ConfigError, parse_duration

MIN_SVID_SECONDS = 10.0
"""Below this, renewal at half life has no time left for a retry."""


def svid_seconds(text: str) -> float:
    """The value of --svid-ttl. Raises ConfigError."""
    seconds = parse_duration(text, "--svid-ttl")
    if seconds < MIN_SVID_SECONDS:
        raise ConfigError(
            f"--svid-ttl {text!r} is less than {MIN_SVID_SECONDS:g}s, the least that leaves time for renewal: "
            f"give {MIN_SVID_SECONDS:g}s or more; 24h is the default"
        )
    return seconds


def given_issuer(issuing: Issuing) -> GivenFiles | None:
    """An issuer that is given by three flags, or none. Raises ConfigError."""
    certificate, key, roots = issuing.certificate, issuing.key, issuing.roots
    if certificate is None or key is None or roots is None:
        if certificate is key is roots is None:
            return None
        raise ConfigError("--issuer-cert, --issuer-key and --roots go together: give all three, or none")
    return GivenFiles(certificate.absolute(), key.absolute(), roots.absolute())
