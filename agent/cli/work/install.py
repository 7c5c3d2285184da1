"""The objects of an installation: the Helm chart's, as they were rendered when this package was made. Pure.

Every place where a flag goes has a name that is nothing else's; the rest is the chart's defaults.
"""

import re
from pathlib import Path

from msgspec import Struct

from agent.flags import ConfigError

OBJECTS = Path(__file__).with_name("objects.yaml")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._:/-]*[a-z0-9](:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{64})?")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")


class Installation(Struct, frozen=True):
    """What differs between installations."""

    namespace: str
    image: str
    trust_domain: str


STAND_INS = Installation("namespace-of-quietwire", "image-of-quietwire:tag", "trust-domain-of-quietwire")


def objects(wanted: Installation, *, definitions: bool = True, text: str | None = None) -> str:
    """Manifests for `kubectl apply -f -`, the namespace first. Raises ConfigError."""
    for flag, pattern, value in (
        ("--namespace", _NAMESPACE, wanted.namespace),
        ("--image", _IMAGE, wanted.image),
        ("--trust-domain", _TRUST_DOMAIN, wanted.trust_domain),
    ):
        if not pattern.fullmatch(value):
            raise ConfigError(f"{flag} {value!r} is none: it must be as {pattern.pattern}")
    rendered = OBJECTS.read_text(encoding="utf-8") if text is None else text
    for stand_in, value in (
        (STAND_INS.namespace, wanted.namespace),
        (STAND_INS.image, wanted.image),
        (STAND_INS.trust_domain, wanted.trust_domain),
    ):
        rendered = rendered.replace(stand_in, value)
    documents = [part for part in re.split(r"^---\n", rendered, flags=re.MULTILINE) if "\nkind: " in f"\n{part}"]
    kept = [each for each in documents if definitions or "\nkind: CustomResourceDefinition\n" not in each]
    return "---\n".join([_namespace(wanted.namespace), *kept])


def _namespace(name: str) -> str:
    return f"""apiVersion: v1
kind: Namespace
metadata:
  name: {name}
  labels:
    # Agents enter the network namespaces of pods: they are privileged.
    pod-security.kubernetes.io/enforce: privileged
"""
