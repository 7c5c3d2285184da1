"""What `quietwire cni` does."""

import sys
from typing import Any

import msgspec

from agent.cli.cni import Where
from agent.cli.work.exits import EXIT_FAILED, EXIT_USAGE, fail
from agent.cni import installation
from agent.cni.conflist import TYPE, Plugin
from agent.cni.installation import InstallationError, Node
from init.constants import CNI_SOCKET

MAX_SECONDS = 600
"""As `client.c` has it."""


def install(where: Where, *, as_json: bool) -> None:
    """Does it, and says what was changed."""
    node, plugin = _meant(where)
    try:
        done = installation.install(node, plugin)
    except (InstallationError, OSError) as error:
        fail(_said(error), EXIT_FAILED)
    _changed(done, "it is as it should be already", as_json=as_json)


def uninstall(where: Where, *, as_json: bool) -> None:
    """Does it, and says what was changed."""
    node, _ = _meant(where)
    try:
        done = installation.uninstall(node)
    except OSError as error:
        fail(_said(error), EXIT_FAILED)
    _changed(done, "there was nothing of it", as_json=as_json)


def status(where: Where, *, as_json: bool) -> None:
    """Prints it, and ends with 1 where something is not as it should be."""
    node, plugin = _meant(where)
    try:
        found = installation.state(node, plugin)
    except OSError as error:
        fail(_said(error), EXIT_FAILED)
    if as_json:
        _json({**msgspec.structs.asdict(found), "well": found.is_well})
    else:
        of_file = found.problem or ("last in it" if found.in_it else "not in it as asked: quietwire cni install")
        of_program = "this version's" if found.program else "missing, or another version's: quietwire cni install"
        lines = (
            ("configuration", f"{node.configurations / found.configuration}: {of_file}"),
            ("program", f"{node.programs / TYPE}: {of_program}"),
            ("agent", found.agent or "takes pods"),
        )
        sys.stdout.write("".join(f"{name:<15}{said}\n" for name, said in lines))
    if not found.is_well:
        sys.exit(EXIT_FAILED)


def _meant(where: Where) -> tuple[Node, Plugin]:
    if not 1 <= where.timeout <= MAX_SECONDS:
        fail(f"--timeout {where.timeout} must be 1 to {MAX_SECONDS} seconds", EXIT_USAGE)
    plugin = Plugin(
        socket=str(where.run_dir / CNI_SOCKET), seconds=where.timeout, exempt_namespaces=tuple(where.exempt_namespace)
    )
    return Node(where.net_dir, where.bin_dir), plugin


def _changed(done: list[str], nothing: str, *, as_json: bool) -> None:
    if as_json:
        _json({"changed": done})
    else:
        sys.stdout.write("".join(f"{each}\n" for each in done or [nothing]))


def _json(value: Any) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def _said(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return str(error)
