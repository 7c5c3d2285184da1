"""`python -m deploy.helm HELM`: writes the parts of the chart that are made from the code.

And the objects of `quietwire install`, which are the chart's as that program, helm, renders it. `make chart` calls it.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from agent.cli.work.install import OBJECTS, STAND_INS
from deploy.helm import definitions, values

CHART = Path(__file__).parent / "quietwire"
DEFINITIONS = CHART / "files" / "definitions"
README = CHART / "README.md"
HEADER = "# Made by `make chart` from the kinds that the code knows.\n"
MARK = "<!-- made by `make chart` from values.yaml -->\n"
KUBERNETES = "1.36"
"""For which version the chart is rendered: none of its objects depends on it, only whether helm does."""


def files() -> dict[Path, str]:
    """What is made of the code and of values.yaml, and its content."""
    found = {
        DEFINITIONS / f"{definitions.KINDS[kind].plural}.yaml": HEADER
        + yaml.dump(definitions.definition(kind), Dumper=_Plain, sort_keys=False, width=110)
        for kind in definitions.KINDS
    }
    before, mark, _ = README.read_text(encoding="utf-8").partition(MARK)
    documented = values.documented((CHART / "values.yaml").read_text(encoding="utf-8"))
    found[README] = f"{before}{mark}\n{values.table(documented)}\n"
    return found


def rendered(helm: Path, *more: str, namespace: str) -> str:
    """The chart's objects. Raises CalledProcessError."""
    words = [str(helm), "template", "quietwire", str(CHART), "--kube-version", KUBERNETES, "--namespace", namespace]
    return subprocess.run([*words, *more], capture_output=True, text=True, check=True, timeout=60).stdout


def objects(helm: Path) -> str:
    """What `quietwire install` prints, before its flags are in it."""
    repository, _, tag = STAND_INS.image.partition(":")
    flags = {"image.repository": repository, "image.tag": tag, "trustDomain": STAND_INS.trust_domain}
    settings = [word for name, value in flags.items() for word in ("--set", f"{name}={value}")]
    said = rendered(helm, *settings, namespace=STAND_INS.namespace)
    kept = [line for line in said.splitlines() if not line.startswith("# Source: ")]
    return "\n".join(["# Made by `make chart`: the chart's objects.", *kept]) + "\n"


class _Plain(yaml.SafeDumper):
    """Writes each value out, where others would refer back to an equal one."""

    def ignore_aliases(self, data: object) -> bool:
        """Whether it may be repeated."""
        del data
        return True


def main(words: Sequence[str]) -> int:
    """Writes them."""
    if len(words) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    for path, content in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    OBJECTS.write_text(objects(Path(words[0])), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
