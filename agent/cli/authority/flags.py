"""The flags that most of the authority's verbs have."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

State = Annotated[Path, Parameter(help="The state directory of `quietwire up` or `quietwire authority run`.")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="One JSON document on stdout.")]

STATE = Path("/var/lib/quietwire")
