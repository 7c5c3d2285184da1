"""What a container runtime asks by its plugin, and how it can be wrong (CNI specification 1.1.0). Pure.

`agent/cni/client.c` says how it comes over the socket. Whether the namespace is that pod's, the agent finds out.
"""

import ipaddress
from enum import IntEnum
from typing import Any

import msgspec
from msgspec import Struct

from agent.objects.key import PodKey, pod_key

GREETING = b"quietwire-cni 1\n"
MAX_BYTES = 4 << 20
SUPPORTED = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")


class Code(IntEnum):
    """CNI specification, "Error codes"; from 100 on they are the plugin's own."""

    VERSION = 1
    UNKNOWN_CONTAINER = 3
    ENVIRONMENT = 4
    INPUT_OUTPUT = 5
    UNDECODABLE = 6
    CONFIGURATION = 7
    TRY_AGAIN = 11
    NOT_AVAILABLE = 50
    NOT_CAPTURED = 100


class CniError(Exception):
    """The answer is an error: its code, what is wrong, and what more there is to say."""

    def __init__(self, code: Code, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


class _Address(Struct, frozen=True):
    address: str = ""


class _Result(Struct, frozen=True):
    ips: tuple[_Address, ...] | None = None


class _Configuration(Struct, frozen=True):
    cniVersion: str = "0.1.0"  # noqa: N815 - as the specification has it
    name: str = ""
    prevResult: msgspec.Raw = msgspec.Raw(b"")  # noqa: N815 - as the specification has it


class Request(Struct, frozen=True):
    """One call of the plugin."""

    command: str
    version: str
    container: str
    netns: str
    interface: str
    pod: PodKey | None
    """None where the runtime tells of none: a container that no kubelet asked for."""
    uid: str
    """The pod's; "" where the runtime does not tell."""
    previous: bytes
    """The result of the plugins before, as it came; b"" where there is none."""
    addresses: tuple[str, ...]
    """Of the sandbox, by that result."""


_ATTACHED = frozenset({"ADD", "CHECK", "DEL"})
_COMMANDS = _ATTACHED | {"GC", "STATUS"}


def parse(data: bytes) -> Request:
    """Raises CniError."""
    if not data.startswith(GREETING):
        raise CniError(Code.ENVIRONMENT, "quietwire-cni is of another version than the agent: install it anew")
    variables, found, configuration = data[len(GREETING) :].partition(b"\0\0")
    if not found:  # without a variable there is one zero byte alone
        raise CniError(Code.ENVIRONMENT, "no CNI_ variables came")
    environment = _environment(variables)
    command = environment.get("CNI_COMMAND", "")
    try:
        given = msgspec.json.decode(configuration, type=_Configuration)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CniError(Code.UNDECODABLE, "the configuration is no network configuration", str(error)) from error
    if given.cniVersion not in SUPPORTED:
        supported = ", ".join(SUPPORTED)
        raise CniError(Code.VERSION, f"cniVersion {given.cniVersion[:20]!r} is none of {supported}")
    if command not in _COMMANDS:
        raise CniError(Code.ENVIRONMENT, f"CNI_COMMAND {command[:20]!r} is none of {', '.join(sorted(_COMMANDS))}")
    _check(command, environment)
    arguments = _arguments(environment.get("CNI_ARGS", ""))
    name, namespace = arguments.get("K8S_POD_NAME"), arguments.get("K8S_POD_NAMESPACE")
    if "/" in f"{name}{namespace}":
        raise CniError(Code.ENVIRONMENT, "CNI_ARGS names a pod that cannot be: there is a / in its name")
    previous = b"" if bytes(given.prevResult) == b"null" else bytes(given.prevResult)
    return Request(
        command=command,
        version=given.cniVersion,
        container=environment.get("CNI_CONTAINERID", ""),
        netns=environment.get("CNI_NETNS", ""),
        interface=environment.get("CNI_IFNAME", ""),
        pod=pod_key(namespace, name) if name and namespace else None,
        uid=arguments.get("K8S_POD_UID", ""),
        previous=previous,
        addresses=_addresses(previous),
    )


def error(raised: CniError, version: str) -> bytes:
    """What the plugin prints for it."""
    body: dict[str, Any] = {"cniVersion": version, "code": int(raised.code), "msg": raised.message}
    if raised.details:
        body["details"] = raised.details
    return msgspec.json.encode(body) + b"\n"


def answer(status: int, printed: bytes) -> bytes:
    """As it goes to the program: its exit status, and what it prints."""
    return b"%d %d\n" % (status, len(printed)) + printed


def _environment(variables: bytes) -> dict[str, str]:
    try:
        pairs = [each.partition("=") for each in variables.decode().split("\0")]
    except UnicodeDecodeError as error:
        raise CniError(Code.ENVIRONMENT, "a CNI_ variable is no UTF-8", str(error)) from error
    return {name: value for name, _, value in pairs}


def _check(command: str, environment: dict[str, str]) -> None:
    needed = {"ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"), "CHECK": ("CNI_CONTAINERID", "CNI_NETNS")}
    for name in needed.get(command, ()):
        if not environment.get(name):
            raise CniError(Code.ENVIRONMENT, f"{name} is not set, and {command} needs it")


def _arguments(text: str) -> dict[str, str]:
    return {name: value for name, _, value in (each.partition("=") for each in text.split(";"))}


def _addresses(previous: bytes) -> tuple[str, ...]:
    if not previous:
        return ()
    try:
        result = msgspec.json.decode(previous, type=_Result)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CniError(Code.UNDECODABLE, "prevResult is no result of a plugin", str(error)) from error
    try:
        return tuple(str(ipaddress.ip_interface(each.address).ip) for each in result.ips or ())
    except ValueError as error:
        raise CniError(Code.UNDECODABLE, "prevResult has an address that is none", str(error)) from error
