"""Our plugin on a node: its program beside the others, and its entry as the last in what the runtime takes.

Each step is whole or not at all, in an order in which no runtime ever names a program that is not there. Whoever wrote
a configuration may write it anew at any time, without us; then this is done again.
"""

import os
import subprocess
from pathlib import Path

import msgspec
from msgspec import Struct

from agent.cni.conflist import (
    TYPE,
    ConfigurationError,
    Plugin,
    is_as_it_should_be,
    name_with,
    taken,
    with_us,
    without_us,
)
from init import on_disk

PROGRAM = Path(__file__).with_name(TYPE)
SAVED = ".before-quietwire"
"""Ends the name of a file whose single plugin is in a list now: no runtime takes such a name."""
MAX_BYTES = 1 << 20
EXECUTABLE = 0o755
ASK_SECONDS = 10.0


class InstallationError(Exception):
    """It cannot be done; `str` says why, and what helps."""


class Node(Struct, frozen=True):
    """Where a node's runtime looks: network configurations, and plugins' programs."""

    configurations: Path = Path("/etc/cni/net.d")
    programs: Path = Path("/opt/cni/bin")


class State(Struct, frozen=True, kw_only=True):
    """What is there now."""

    configuration: str
    """The file that the runtime takes; "" where there is none."""
    in_it: bool
    """We are in it, once, as the last, and with the settings that were asked for."""
    problem: str
    """What is wrong with the file; "" where nothing is."""
    program: bool
    """The program is there, and this version's."""
    agent: str
    """What the agent says by way of the program: "" where it takes pods."""

    @property
    def is_well(self) -> bool:
        """Whether each sandbox is asked about, and answered."""
        return self.in_it and self.program and not self.problem and not self.agent


def install(node: Node, plugin: Plugin) -> list[str]:
    """Puts us there; what was changed, in words. Raises InstallationError, OSError."""
    name = _taken(node)
    if name is None:
        raise InstallationError(
            f"{node.configurations} has no network configuration: the plugins of the cluster's own network come first"
        )
    file = node.configurations / name
    done = _put_program(node)
    try:
        raw = on_disk.read(file, MAX_BYTES)
        if is_as_it_should_be(raw, plugin):
            return done
        listed = node.configurations / name_with(name)
        on_disk.replace(listed, with_us(raw, plugin), durable=True)
    except ConfigurationError as error:
        raise InstallationError(f"{file}: {error}") from error
    if listed != file:
        file.rename(file.with_name(name + SAVED))
        return [*done, f"{listed} has {TYPE} last; {file} was put aside as {name}{SAVED}"]
    return [*done, f"{file} has {TYPE} last"]


def uninstall(node: Node) -> list[str]:
    """Takes us out of every configuration, and then the program away; what was changed, in words. Raises OSError.

    A file that cannot be understood cannot have us in it, and stays as it is.
    """
    done = []
    for file in sorted(_files(node)):
        try:
            rest = without_us(on_disk.read(file, MAX_BYTES))
        except ConfigurationError:
            continue
        if rest is None:
            continue
        saved = file.with_name(f"{file.stem}.conf{SAVED}")
        if saved.exists():
            saved.rename(file.with_name(f"{file.stem}.conf"))
            file.unlink()
            done.append(f"{file.with_name(file.stem)}.conf is back in the place of {file.name}")
        else:
            on_disk.replace(file, rest, durable=True)
            done.append(f"{file} is without {TYPE}")
    program = node.programs / TYPE
    if program.exists():
        program.unlink()
        done.append(f"{program} is removed")
    return done


def state(node: Node, plugin: Plugin) -> State:
    """What is there; nothing is changed. Raises OSError."""
    name = _taken(node)
    in_it, problem = False, ""
    if name is None:
        problem = f"{node.configurations} has no network configuration"
    else:
        try:
            in_it = is_as_it_should_be(on_disk.read(node.configurations / name, MAX_BYTES), plugin)
        except ConfigurationError as error:
            problem = str(error)
    return State(
        configuration=name or "",
        in_it=in_it,
        problem=problem,
        program=_has_program(node),
        agent=asked(plugin),
    )


class _Error(Struct, frozen=True):
    msg: str = ""
    details: str = ""


def asked(plugin: Plugin) -> str:
    """What the agent says to STATUS, as a runtime would hear it: "" where it takes pods."""
    given = msgspec.json.encode({"cniVersion": "1.1.0", "name": "status", **plugin.entry})
    done = subprocess.run(
        [str(PROGRAM)],
        input=given,
        env={"CNI_COMMAND": "STATUS"},
        capture_output=True,
        timeout=ASK_SECONDS,
        check=False,
    )
    if done.returncode == 0:
        return ""
    try:
        said = msgspec.json.decode(done.stdout, type=_Error)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return f"{PROGRAM} ended with {done.returncode} and no answer"
    return ": ".join(each for each in (said.msg, said.details) if each)


def _files(node: Node) -> list[Path]:
    try:
        return [each for each in node.configurations.iterdir() if taken([each.name])]
    except FileNotFoundError:
        return []


def _taken(node: Node) -> str | None:
    return taken(each.name for each in _files(node))


def _has_program(node: Node) -> bool:
    try:
        there = on_disk.read(node.programs / TYPE)
    except FileNotFoundError:
        return False
    return there == PROGRAM.read_bytes() and os.access(node.programs / TYPE, os.X_OK)


def _put_program(node: Node) -> list[str]:
    if _has_program(node):
        return []
    to = node.programs / TYPE
    node.programs.mkdir(parents=True, exist_ok=True)
    unready = to.with_name(f".{TYPE}")
    on_disk.replace(unready, PROGRAM.read_bytes(), durable=True)
    unready.chmod(EXECUTABLE)
    unready.rename(to)  # a runtime that is running the former one goes on with that
    return [f"{to} is this version's"]
