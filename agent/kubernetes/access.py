"""Where the API server is, whom to believe there, and who we are: from a pod's own files, or from a kubeconfig.

Files are named and not read here: what is in them is rotated, and read again when it is needed (`credential`).
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from agent.manifests.document import trees
from agent.objects.field import FaultError, Field

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
HTTPS_PORT = 443
MAX_KUBECONFIG = 4 * 1024 * 1024


class AccessError(Exception):
    """It cannot be told where the API server is or who we are; names the file and what helps."""


class Material(Struct, frozen=True):
    """A certificate, key or token: what it is, or the file that has it. Neither: there is none."""

    data: bytes = b""
    file: str = ""

    def __bool__(self) -> bool:
        return bool(self.data or self.file)


class Command(Struct, frozen=True):
    """A program that gives a credential (client.authentication.k8s.io/v1)."""

    words: tuple[str, ...]
    environ: tuple[tuple[str, str], ...]
    api_version: str
    hint: str = ""
    """What to tell the user where there is no such program."""


class Access(Struct, frozen=True):
    """All that a client needs to know."""

    host: str
    port: int
    path: str = ""
    """Before every path of the API, where it is behind a proxy."""
    server_name: str = ""
    """Which name its certificate has to carry; empty: the host's."""
    ca: Material = Material()
    """Whom to believe; none: whom the system believes."""
    token: Material = Material()
    certificate: Material = Material()
    key: Material = Material()
    command: Command | None = None
    namespace: str = "default"
    source: str = ""
    """Where this was read, for errors."""

    @property
    def address(self) -> str:
        """For people."""
        return f"https://[{self.host}]:{self.port}" if ":" in self.host else f"https://{self.host}:{self.port}"


def in_cluster(environ: Mapping[str, str], directory: Path = SERVICE_ACCOUNT) -> Access:
    """As a pod is told ("Accessing the API from a Pod"). Raises AccessError where this is none."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise AccessError(
            "KUBERNETES_SERVICE_HOST is not set: this is no pod of a cluster. Give --kubeconfig FILE, or set KUBECONFIG"
        )
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise AccessError(f"KUBERNETES_SERVICE_PORT is {port!r}, which is no port")
    if not (directory / "token").exists():
        raise AccessError(
            f"{directory}/token does not exist: the pod has no service account token (automountServiceAccountToken)"
        )
    try:
        namespace = (directory / "namespace").read_text().strip()
    except OSError:
        namespace = "default"  # nothing is decided by it but where to look first
    return Access(
        host=host,
        port=int(port),
        ca=Material(file=str(directory / "ca.crt")),
        token=Material(file=str(directory / "token")),
        namespace=namespace,
        source=str(directory),
    )


def kubeconfig_files(environ: Mapping[str, str], given: str = "") -> list[Path]:
    """Those that kubectl would read: what was given, or $KUBECONFIG, or ~/.kube/config; empty where there is none."""
    if given:
        return [Path(given)]
    if named := environ.get("KUBECONFIG", ""):
        return [Path(name) for name in named.split(":") if name]
    home = Path(environ.get("HOME") or "/root", ".kube", "config")
    return [home] if home.exists() else []


def find(environ: Mapping[str, str], given: str = "", context: str = "") -> Access:
    """As kubectl finds it: a kubeconfig that was given, or that there is; else, in a pod, its own files.

    Raises AccessError.
    """
    files = kubeconfig_files(environ, given)
    if not files and environ.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster(environ)
    return from_kubeconfig(files, context)


def from_kubeconfig(files: Iterable[Path], context: str = "") -> Access:
    """From kubeconfigs, merged as kubectl does it: of each name the first that has it. Raises AccessError."""
    merged = _Merged(list(files))
    wanted = context or merged.current
    if not wanted:
        known = _known(merged.contexts)
        raise AccessError(f"{merged.names}: there is no current-context, and none was named ({known})")
    chosen = merged.pick("context", merged.contexts, wanted)
    cluster = merged.pick("cluster", merged.clusters, chosen.text("cluster"))
    name = chosen.text("user")
    user = merged.pick("user", merged.users, name) if name else _Entry(Field(None, 0), Path())
    for entry, fields in ((cluster, _UNSUPPORTED_OF_CLUSTER), (user, _UNSUPPORTED_OF_USER)):
        for field, instead in fields.items():
            found = entry.get(field)
            if found.value is not None and found.value is not False and found.value != "":
                raise entry.fault(FaultError(found, f"not supported: {instead}"))
    server = cluster.get("server")
    try:
        parts = urlsplit(cluster.text("server"))
        host, port = parts.hostname, parts.port or HTTPS_PORT
    except ValueError as error:
        raise cluster.fault(FaultError(server, f"{server.value!r} is no address: {error}")) from error
    if parts.scheme != "https" or not host:
        raise cluster.fault(
            FaultError(server, f"{server.value!r} is no https:// address: tokens would go out readable")
        )
    certificate, key = user.material("client-certificate"), user.material("client-key")
    if bool(certificate) != bool(key):
        raise user.fault(FaultError(user.fields, "of client-certificate and client-key one is missing"))
    token = user.text("token")
    return Access(
        host=host,
        port=port,
        path=parts.path.rstrip("/"),
        server_name=cluster.text("tls-server-name"),
        ca=cluster.material("certificate-authority"),
        token=Material(data=token.encode()) if token else Material(file=user.path("tokenFile")),
        certificate=certificate,
        key=key,
        command=user.command(),
        namespace=chosen.text("namespace") or "default",
        source=merged.names,
    )


_UNSUPPORTED_OF_CLUSTER = {
    "insecure-skip-tls-verify": "whoever is in between could answer in the server's place; give certificate-authority",
    "proxy-url": "the API server is dialled as it is",
}
_UNSUPPORTED_OF_USER = dict.fromkeys(
    ("username", "password", "auth-provider"), "give a token, a client certificate or exec"
)


class _Entry:
    """What stands under one name of a kubeconfig. Raises AccessError, with file and line, for what is no such thing."""

    def __init__(self, fields: Field, file: Path) -> None:
        self.fields = fields
        self._file = file

    def fault(self, error: FaultError) -> AccessError:
        return AccessError(f"{self._file}:{error.line}: {error.reason}")

    def get(self, name: str) -> Field:
        try:
            return self.fields.get(name)
        except FaultError as error:
            raise self.fault(error) from error

    def text(self, name: str) -> str:
        try:
            return self.get(name).text(default="")
        except FaultError as error:
            raise self.fault(error) from error

    def path(self, name: str) -> str:
        """Relative names are relative to the kubeconfig."""
        value = self.text(name)
        return str(self._file.parent / value) if value else ""

    def material(self, name: str) -> Material:
        encoded = self.text(f"{name}-data")
        if not encoded:
            return Material(file=self.path(name))
        try:
            return Material(data=base64.b64decode(encoded, validate=True))
        except binascii.Error as error:
            raise self.fault(FaultError(self.get(f"{name}-data"), f"no base64: {error}")) from error

    def command(self) -> Command | None:
        found = self.get("exec")
        if found.value is None:
            return None
        try:
            words = [found.get("command").text(), *(word.text() for word in found.get("args").items())]
            if "/" in words[0]:
                words[0] = str(self._file.parent / words[0])
            environ = [
                (each.get("name").text(), each.get("value").text(default="")) for each in found.get("env").items()
            ]
            return Command(
                words=tuple(words),
                environ=tuple(environ),
                api_version=found.get("apiVersion").text(default="") or "client.authentication.k8s.io/v1",
                hint=found.get("installHint").text(default="").strip(),
            )
        except FaultError as error:
            raise self.fault(error) from error


class _Merged:
    """Several kubeconfigs as one."""

    def __init__(self, files: list[Path]) -> None:
        self.names = ", ".join(map(str, files))
        self.current = ""
        self.contexts: dict[str, _Entry] = {}
        self.clusters: dict[str, _Entry] = {}
        self.users: dict[str, _Entry] = {}
        found = [(file, document) for file in files if (document := _document(file)) is not None]
        if not found:
            nowhere = f"{self.names}: there is no such file" if files else "there is no kubeconfig"
            raise AccessError(f"{nowhere}. Give --kubeconfig FILE, or set KUBECONFIG")
        for file, document in found:
            try:
                self.current = self.current or document.get("current-context").text(default="")
                self._take(document.get("contexts"), "context", self.contexts, file)
                self._take(document.get("clusters"), "cluster", self.clusters, file)
                self._take(document.get("users"), "user", self.users, file)
            except FaultError as error:
                raise AccessError(f"{file}:{error.line}: {error.reason}") from error

    @staticmethod
    def _take(several: Field, one: str, into: dict[str, _Entry], file: Path) -> None:
        for entry in several.items():
            fields = entry.get(one)
            fields.mapping()  # raises where it is none
            into.setdefault(entry.get("name").text(), _Entry(fields, file))

    def pick(self, what: str, among: Mapping[str, _Entry], name: str) -> _Entry:
        if name not in among:
            raise AccessError(f"{self.names}: there is no {what} {name!r} ({_known(among)})")
        return among[name]


def _known(entries: Mapping[str, _Entry]) -> str:
    return f"known: {', '.join(sorted(entries))}" if entries else "there is none at all"


def _document(file: Path) -> Field | None:
    """A kubeconfig; None where there is no such file, which kubectl takes for an empty one."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_KUBECONFIG + 1)
        if len(data) > MAX_KUBECONFIG:
            raise AccessError(f"{file} is over the limit of {MAX_KUBECONFIG} bytes")
        found = trees(data)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AccessError(f"{file} cannot be read: {error.strerror}") from error
    except FaultError as error:
        raise AccessError(f"{file}:{error.line}: {error.reason}") from error
    return found[0] if found else Field(None, 0)
