"""Where this agent's SVIDs come from, by its configuration: its own authority, another's, or files."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from cryptography import x509

from agent.authority.run import AuthorityConfig
from agent.flags import ConfigError
from agent.identity import anchors, pem_file
from agent.identity.authority_client import AuthorityClient, Proof, projected
from agent.identity.credential import FileCredential
from agent.identity.files_provider import FilesProvider
from agent.identity.provider import ProviderError, SvidProvider
from agent.node.authority_process import AuthorityProcess
from agent.node.config import Config, Directory, Embedded, Remote, SvidFiles
from agent.tls import trial

log = logging.getLogger("quietwire.identity")


class IdentitySource(Protocol):
    """A provider, and what runs beside it."""

    @property
    def provider(self) -> SvidProvider:
        """Where SVIDs come from."""

    @property
    def clock_skew(self) -> float | None:
        """By how many seconds the authority's clock is ahead; None where there is none, or it was not heard."""

    @property
    def restarts(self) -> int:
        """How often something beside the provider was started again."""

    async def run(self) -> None:
        """Whatever must go on; until cancelled."""

    async def stop(self) -> None:
        """Ends it."""


class _Alone:
    """A provider that needs nothing beside it."""

    restarts = 0

    def __init__(self, provider: AuthorityClient | FilesProvider) -> None:
        self.provider = provider

    @property
    def clock_skew(self) -> float | None:
        return self.provider.skew if isinstance(self.provider, AuthorityClient) else None

    async def run(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def stop(self) -> None:
        return


class _EmbeddedAuthority:
    """The authority of `quietwire up`, and its client."""

    def __init__(self, process: AuthorityProcess, provider: AuthorityClient) -> None:
        self._process = process
        self.provider = provider

    @property
    def clock_skew(self) -> float | None:
        return self.provider.skew

    @property
    def restarts(self) -> int:
        return self._process.restarts

    async def run(self) -> None:
        await self._process.run()

    async def stop(self) -> None:
        await self._process.stop()


async def start(config: Config) -> IdentitySource:
    """Starts what must be there before the first SVID. Raises AuthorityError, ConfigError."""
    match config.identity:
        case Embedded():
            if not isinstance(config.source, Directory):
                raise ConfigError("an authority of its own reads a directory of manifests: see Config.check")
            return await _embedded(config, config.identity, config.source.path)
        case Remote():
            return _Alone(_remote(config, config.identity))
        case SvidFiles(directory):
            return _Alone(FilesProvider(directory, config.trust_domain, trial.check))


async def _embedded(config: Config, embedded: Embedded, manifests: Path) -> IdentitySource:
    process = AuthorityProcess(
        AuthorityConfig(
            state=config.state,
            trust_domain=config.trust_domain,
            listen=embedded.listen,
            manifests=manifests,
            svid_seconds=embedded.svid_seconds,
            given=embedded.given,
        ),
        node=config.node,
        log_format=config.log_format,
        log_level=config.log_level,
    )
    await process.start()
    client = AuthorityClient(
        addresses=(process.listening.address,),
        anchors_pem=process.listening.bundle_pem.encode(),
        trust_domain=config.trust_domain,
        node=config.node,
        tokens=process.token,
    )
    return _EmbeddedAuthority(process, client)


def _remote(config: Config, remote: Remote) -> AuthorityClient:
    credential = FileCredential(config.state / "agent", config.trust_domain, config.node)
    tokens, proof = _from_file(remote.join_token), Proof.JOIN_TOKEN
    if remote.service_account_token is not None:
        tokens, proof = projected(remote.service_account_token), Proof.SERVICE_ACCOUNT
    return AuthorityClient(
        addresses=remote.addresses,
        anchors_pem=_roots_of(_bundle(remote, credential.bundle_pem()), remote.bundle),
        trust_domain=config.trust_domain,
        node=config.node,
        tokens=tokens,
        proof=proof,
        credential=credential,
    )


def _bundle(remote: Remote, kept: bytes | None) -> bytes:
    """What to trust at first. Raises ConfigError.

    On a host somebody copied the bundle there once, and the one that was kept is the newer. In a cluster the authority
    publishes it, and the kubelet keeps the file as it is published.
    """
    published = remote.service_account_token is not None
    if kept is not None and not published:
        return kept
    try:
        return pem_file.certificates(remote.bundle.read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if kept is not None:
            log.warning("--bundle %s cannot be used (%s): the one that was kept is", remote.bundle, reason)
            return kept
        raise ConfigError(
            f"--bundle {remote.bundle} cannot be used: {reason}; "
            + (
                "the authority publishes it in the ConfigMap quietwire-bundle"
                if published
                else "`quietwire authority bundle --pem` on the authority's machine prints it"
            )
        ) from None


def _roots_of(bundle_pem: bytes, path: Path) -> bytes:
    """The roots of the bundle that an agent starts with. Raises ConfigError where there is none."""
    found = anchors.sort(x509.load_pem_x509_certificates(bundle_pem))
    for words in found.left_out:
        log.warning("bundle: %s", words)
    if not found.roots:
        raise ConfigError(f"--bundle {path}, or the bundle that was kept, has no root: {found.odd[0][1]}")
    return found.pem


def _from_file(path: Path | None) -> Callable[[], Awaitable[str]]:
    async def token() -> str:
        hint = "make one on the authority's machine: quietwire authority token create --node NODE"
        if path is None:
            raise ProviderError("no_token", f"this agent has not joined yet, and has no --join-token-file; {hint}")
        try:
            return (await asyncio.to_thread(path.read_text, encoding="ascii")).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ProviderError("no_token", f"--join-token-file {path} cannot be read: {error}; {hint}") from error

    return token
