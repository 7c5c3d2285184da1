"""`python -m deploy.helm`: writes the parts of the chart that are made from the code."""

import sys
from pathlib import Path

import yaml

from deploy.helm import definitions

CHART = Path(__file__).parent / "quietwire"
DEFINITIONS = CHART / "files" / "definitions"
HEADER = "# Made by `python -m deploy.helm` from the kinds that the code knows.\n"


def files() -> dict[Path, str]:
    """What is made, and its content."""
    return {
        DEFINITIONS / f"{definitions.KINDS[kind].plural}.yaml": HEADER
        + yaml.dump(definitions.definition(kind), Dumper=_Plain, sort_keys=False, width=110)
        for kind in definitions.KINDS
    }


class _Plain(yaml.SafeDumper):
    """Writes each value out, where others would refer back to an equal one."""

    def ignore_aliases(self, data: object) -> bool:
        """Whether it may be repeated."""
        del data
        return True


if __name__ == "__main__":
    for path, content in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        print(path, file=sys.stderr)
