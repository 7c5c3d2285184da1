"""Help flows: where its lines break is the terminal's affair."""

import json
import subprocess
import sys

from agent.cli.paragraphs import flowing

WRITTEN = """Run it
    until it ends.

    It says much
    about itself.

    Parameters
    ----------
    one
        The first,
        in two lines.
    two
        The second.
    """

FLOWING = """Run it until it ends.

It says much about itself.

Parameters
----------
one
    The first, in two lines.
two
    The second."""

EVERY_TEXT = """
import json
from agent.cli.app import app

found = {}

def walk(level, *words):
    for name in level:
        if name.startswith("-"):
            continue
        below = level[name]
        if (text := below.help.partition("Parameters")[0]):
            found[" ".join([*words, name])] = text
        walk(below, *words, name)

walk(app)
print(json.dumps(found))
"""


def test_a_paragraph_and_what_is_said_of_a_parameter_are_one_line_each() -> None:
    assert flowing(WRITTEN) == FLOWING


def test_what_flows_already_stays_as_it_is() -> None:
    assert flowing(FLOWING) == FLOWING
    assert flowing("") == ""


def test_no_verb_tells_a_paragraph_in_lines_of_the_source() -> None:
    done = subprocess.run([sys.executable, "-c", EVERY_TEXT], capture_output=True, text=True, timeout=60, check=True)
    texts: dict[str, str] = json.loads(done.stdout)
    assert texts.keys() >= {"up", "agent", "demo", "authz explain", "authority token create"}
    broken = {
        words: paragraph
        for words, text in texts.items()
        for paragraph in text.strip().split("\n\n")
        if "\n" in paragraph
    }
    assert broken == {}
