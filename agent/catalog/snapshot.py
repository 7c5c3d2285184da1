"""What exists, as one value, and what is different in its next version: how the supervisor tells its workers."""

from msgspec import Struct

from agent.objects.key import ObjectKey
from agent.objects.model import Node, Pod, Service
from agent.objects.policy import PolicyObject


class Catalog(Struct, frozen=True):
    """A snapshot of everything that is known; `version` grows with each change."""

    version: int = 0
    pods: tuple[Pod, ...] = ()
    services: tuple[Service, ...] = ()
    policies: tuple[PolicyObject, ...] = ()
    nodes: tuple[Node, ...] = ()


class CatalogChange(Struct, frozen=True):
    """What is different in version `version`: objects that are new or changed, and the names of those that are gone."""

    version: int
    pods: tuple[Pod, ...] = ()
    services: tuple[Service, ...] = ()
    policies: tuple[PolicyObject, ...] = ()
    gone: tuple[ObjectKey, ...] = ()
    nodes: tuple[Node, ...] = ()
