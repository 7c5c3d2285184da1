"""What `--help` costs, told by what it imports; and what is said about a verb that there is not."""

import json
import os
import re
import subprocess
import sys

import pytest

import agent.cli.app

VERBS = ("agent", "authority", "authz", "check", "cni", "demo", "up", "webhook")
"""All but `init`, which has a parser of its own."""

HEAVY = {
    "asyncinotify", "asyncio", "cryptography", "h11", "iptc", "markdown_it", "prometheus_client", "pyroute2",
    "setproctitle", "sqlite3", "ssl", "starlette", "uvicorn", "uvloop", "yaml",
}  # fmt: skip
"""What only a verb that runs may import; and the renderer of Markdown, which was a third of what `--help` cost."""

OWN = re.compile(
    r"agent|agent\.cli(\.(?!work\b|demo\.)\w+)*|agent\.flags|agent\.objects(\.policy|\.key)?|init(\.constants)?"
)
"""The rooms' modules that say what can be typed, or are read for it."""

EVERY_HELP = """
import contextlib, io, json, sys
from agent.cli.app import app, run

found = {}

def ask(*words):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        run([*words, "--help"])
    found[" ".join(words)] = sorted(sys.modules)

def walk(level, *words):
    ask(*words)
    for name in level:
        if not name.startswith("-") and (*words, name) != ("init",):
            walk(level[name], *words, name)

walk(app)
print(json.dumps(found))
"""


def quietwire(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent.cli", *words],
        capture_output=True, text=True, timeout=30, check=False, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def imported(code: str) -> list[str]:
    """What an interpreter has imported after `code`, which prints to stdout what it likes."""
    code = f"import sys\ntry:\n {code}\nexcept SystemExit: pass\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    return done.stderr.split()


def too_much(modules: list[str]) -> list[str]:
    """Those of some modules that no `--help` needs."""
    return [
        name
        for name in modules
        if (root := name.partition(".")[0]) in HEAVY
        or name == "importlib.metadata"
        or (root in {"agent", "init"} and not OWN.fullmatch(name))
    ]


def test_no_help_of_any_verb_imports_what_its_work_needs() -> None:
    done = subprocess.run([sys.executable, "-c", EVERY_HELP], capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    assert found.keys() >= {"", *VERBS, "authority token create", "authority rotate-root abort", "authz explain"}
    assert {words: too_much(modules) for words, modules in found.items() if too_much(modules)} == {}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_imported_when_it_is_called_and_no_other_is(verb: str) -> None:
    modules = imported(f"from agent.cli.app import run; run([{verb!r}, '--help'])")
    others = [each for each in VERBS if each != verb and f"agent.cli.{each}" in modules]
    assert f"agent.cli.{verb}" in modules
    assert others == []
    assert too_much(modules) == []


def test_init_is_run_without_the_other_verbs() -> None:
    modules = imported("import agent.cli; sys.argv[1:] = ['init', '--help']; agent.cli.main()")
    assert "init.cli" in modules
    assert not {"cyclopts", "agent.cli.app", "init.engine", "msgspec"} & set(modules)


def test_the_version_is_that_of_the_package() -> None:
    done = quietwire("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{agent.cli.app.installed()}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", done.stdout)


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["upp"], "up"),
        (["authorty"], "authority"),
        (["inti"], "init"),
        (["authority", "tokn"], "token"),
        (["authority", "token", "creat"], "create"),
        (["authority", "rotate-root", "advanse"], "advance"),
        (["authz", "chek"], "check"),
    ],
)
def test_an_unknown_verb_is_named_with_the_nearest_one(words: list[str], nearest: str) -> None:
    done = quietwire(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert f'Unknown command "{words[-1]}". Did you mean "{nearest}"?' in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_verb_of_init_is_named_with_all_that_there_are() -> None:
    done = quietwire("init", "aply")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(r"invalid choice: 'aply' \(choose from '?apply'?, '?check'?, '?remove'?, '?show'?\)", done.stderr)


def test_an_unknown_flag_is_named_with_the_nearest_one() -> None:
    done = quietwire("up", "--wrkers", "3")
    assert done.returncode == 2
    assert "Unknown option: --wrkers. Did you mean --workers?" in done.stderr


def test_what_stands_in_angle_brackets_is_shown() -> None:
    assert "spiffe://<trust domain>/agent/<node>" in quietwire("authority", "revoke", "--help").stdout
