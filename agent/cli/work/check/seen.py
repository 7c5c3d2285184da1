"""What a check sees of a cluster: of each object the fields that are judged, or why there are none."""

from datetime import datetime
from typing import TypeAlias, TypeVar

from msgspec import Struct

from agent.cli.work.check.asking import Untold

T = TypeVar("T")
Listed: TypeAlias = tuple[T, ...] | Untold
One: TypeAlias = T | Untold | None
"""None: there is none."""


class Camel(Struct, frozen=True, rename="camel"):
    """A part of an object, with Kubernetes' names in Python's spelling."""


class Owner(Camel, frozen=True):
    """Of an OwnerReference."""

    kind: str = ""
    name: str = ""


class Meta(Camel, frozen=True):
    """Of an object's metadata."""

    name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    generation: int = 0
    owner_references: tuple[Owner, ...] = ()

    @property
    def full_name(self) -> str:
        """For people."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Condition(Camel, frozen=True):
    """Of a status."""

    type: str
    status: str = ""
    reason: str = ""
    message: str = ""


class Named(Camel, frozen=True):
    """Any object by its metadata: a namespace, a ServiceAccount."""

    metadata: Meta = Meta()


class NodeInfo(Camel, frozen=True):
    """What a kubelet says of its machine."""

    kernel_version: str = ""
    operating_system: str = ""
    container_runtime_version: str = ""


class NodeSpec(Camel, frozen=True):
    """Of a node."""

    unschedulable: bool = False


class NodeStatus(Camel, frozen=True):
    """Of a node."""

    node_info: NodeInfo = NodeInfo()
    conditions: tuple[Condition, ...] = ()


class Node(Camel, frozen=True):
    """core/v1 Node."""

    metadata: Meta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def name(self) -> str:
        """Its name."""
        return self.metadata.name

    @property
    def is_linux(self) -> bool:
        """Whether an agent can run there at all."""
        return self.status.node_info.operating_system == "linux"

    @property
    def is_ready(self) -> bool:
        """Whether its kubelet is heard of."""
        return any(each.type == "Ready" and each.status == "True" for each in self.status.conditions)


class LeaseSpec(Camel, frozen=True):
    """Of a lease."""

    renew_time: datetime | None = None


class Lease(Camel, frozen=True):
    """coordination.k8s.io/v1 Lease."""

    metadata: Meta
    spec: LeaseSpec = LeaseSpec()


class Capabilities(Camel, frozen=True):
    """Of a container."""

    add: tuple[str, ...] | None = None


class SecurityContext(Camel, frozen=True):
    """Of a container."""

    privileged: bool | None = None
    capabilities: Capabilities | None = None


class Container(Camel, frozen=True):
    """Of a pod, or of a template."""

    name: str
    image: str = ""
    args: tuple[str, ...] = ()
    security_context: SecurityContext | None = None


class PodSpec(Camel, frozen=True):
    """Of a pod, or of a template."""

    node_name: str = ""
    host_network: bool = False
    init_containers: tuple[Container, ...] = ()
    containers: tuple[Container, ...] = ()
    node_selector: dict[str, str] = {}


class Waiting(Camel, frozen=True):
    """Why a container does not run yet."""

    reason: str = ""
    message: str = ""


class Terminated(Camel, frozen=True):
    """How a container has ended."""

    reason: str = ""
    message: str = ""
    exit_code: int = 0


class State(Camel, frozen=True):
    """Of a container."""

    waiting: Waiting | None = None
    terminated: Terminated | None = None


class ContainerStatus(Camel, frozen=True):
    """Of a container."""

    name: str
    ready: bool = False
    restart_count: int = 0
    state: State = State()
    last_state: State = State()


class PodStatus(Camel, frozen=True):
    """Of a pod."""

    phase: str = ""
    conditions: tuple[Condition, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(Camel, frozen=True):
    """core/v1 Pod."""

    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def is_ready(self) -> bool:
        """Whether it serves."""
        return self.is_condition("Ready")

    def is_condition(self, kind: str) -> bool:
        """Whether a condition of it is true."""
        return any(each.type == kind and each.status == "True" for each in self.status.conditions)


class Template(Camel, frozen=True):
    """Of the pods of a workload."""

    spec: PodSpec = PodSpec()


class WorkloadSpec(Camel, frozen=True):
    """Of a Deployment or a DaemonSet."""

    replicas: int = 1
    template: Template = Template()


class WorkloadStatus(Camel, frozen=True):
    """Of a Deployment or, in its own words, of a DaemonSet."""

    observed_generation: int = 0
    ready_replicas: int = 0
    updated_replicas: int = 0
    desired_number_scheduled: int = 0
    updated_number_scheduled: int = 0
    number_ready: int = 0


class Workload(Camel, frozen=True):
    """apps/v1 Deployment or DaemonSet."""

    metadata: Meta
    spec: WorkloadSpec = WorkloadSpec()
    status: WorkloadStatus = WorkloadStatus()


class Involved(Camel, frozen=True):
    """What an Event is about."""

    kind: str = ""
    name: str = ""


class Event(Camel, frozen=True):
    """core/v1 Event."""

    involved_object: Involved = Involved()
    reason: str = ""
    message: str = ""
    last_timestamp: datetime | None = None
    event_time: datetime | None = None

    @property
    def at(self) -> float:
        """When it was seen last; 0 where it does not say."""
        when = self.last_timestamp or self.event_time
        return 0.0 if when is None else when.timestamp()


class EndpointConditions(Camel, frozen=True):
    """Of an endpoint."""

    ready: bool | None = None


class Endpoint(Camel, frozen=True):
    """One of a slice."""

    conditions: EndpointConditions = EndpointConditions()


class EndpointSlice(Camel, frozen=True):
    """discovery.k8s.io/v1 EndpointSlice."""

    metadata: Meta
    endpoints: tuple[Endpoint, ...] | None = None

    @property
    def ready(self) -> int:
        """How many of its endpoints may be sent to; one that does not say may (EndpointConditions)."""
        return sum(each.conditions.ready is not False for each in self.endpoints or ())


class ConfigMap(Camel, frozen=True):
    """core/v1 ConfigMap."""

    data: dict[str, str] = {}


class DefinitionVersion(Camel, frozen=True):
    """Of a definition."""

    name: str
    served: bool = False


class DefinitionSpec(Camel, frozen=True):
    """Of a definition."""

    group: str = ""
    versions: tuple[DefinitionVersion, ...] = ()


class DefinitionStatus(Camel, frozen=True):
    """Of a definition."""

    conditions: tuple[Condition, ...] | None = None


class Definition(Camel, frozen=True):
    """apiextensions.k8s.io/v1 CustomResourceDefinition."""

    metadata: Meta
    spec: DefinitionSpec = DefinitionSpec()
    status: DefinitionStatus = DefinitionStatus()


class Rule(Camel, frozen=True):
    """rbac.authorization.k8s.io/v1 PolicyRule."""

    verbs: tuple[str, ...] = ()
    api_groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    resource_names: tuple[str, ...] = ()


class RoleRef(Camel, frozen=True):
    """What a binding gives."""

    kind: str = ""
    name: str = ""


class Subject(Camel, frozen=True):
    """Whom a binding gives it."""

    kind: str = ""
    name: str = ""
    namespace: str = ""


class Role(Camel, frozen=True):
    """A Role, or a ClusterRole."""

    metadata: Meta
    rules: tuple[Rule, ...] | None = None


class Binding(Camel, frozen=True):
    """A RoleBinding, or a ClusterRoleBinding."""

    metadata: Meta
    role_ref: RoleRef = RoleRef()
    subjects: tuple[Subject, ...] | None = None


class ServiceReference(Camel, frozen=True):
    """Which Service the API server calls."""

    name: str = ""
    namespace: str = ""


class ClientConfig(Camel, frozen=True):
    """How the API server calls a webhook."""

    ca_bundle: bytes = b""
    service: ServiceReference | None = None


class Webhook(Camel, frozen=True):
    """Of a configuration."""

    name: str
    client_config: ClientConfig = ClientConfig()
    failure_policy: str = ""


class Configuration(Camel, frozen=True):
    """A MutatingWebhookConfiguration, or a ValidatingWebhookConfiguration."""

    metadata: Meta
    webhooks: tuple[Webhook, ...] = ()


class Server(Struct, frozen=True):
    """The API server as it answered first."""

    address: str
    version: str
    user: str | Untold
    clock_ahead: float | None
    """Seconds that its clock is ahead of ours; None where it does not say."""


class Permission(Struct, frozen=True, order=True):
    """What one may do; `namespace` is empty for all of them, and for what has none."""

    group: str
    resource: str
    verb: str
    namespace: str = ""
    name: str = ""

    @property
    def what(self) -> str:
        """The objects, as kubectl calls them."""
        kind = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{kind} {self.name}" if self.name else kind

    def __str__(self) -> str:
        """As kubectl says it."""
        return f"{self.verb} {self.what}"


class Before(Struct, frozen=True):
    """What is seen before an installation."""

    server: Server
    missing: Listed[Permission]
    """What the caller may not, of what an installation needs."""
    nodes: Listed[Node]
    namespace: One[Named]
    definitions: Listed[Definition]
    daemon_sets: Listed[Workload]
    """Of every Quietwire in the cluster."""
    linkerd: Listed[Workload]
    """Deployments of Linkerd's control planes."""


class After(Struct, frozen=True):
    """What is seen of an installation."""

    server: Server
    nodes: Listed[Node]
    leases: Listed[Lease]
    namespaces: Listed[Named]
    pods: Listed[Pod]
    """Of all namespaces, those that have not ended."""
    definitions: Listed[Definition]
    daemon_sets: Listed[Workload]
    deployments: Listed[Workload]
    """Of every Quietwire in the cluster."""
    linkerd: Listed[Workload]
    events: Listed[Event]
    """Warnings of the installation's namespace."""
    slices: Listed[EndpointSlice]
    """Of the installation's namespace."""
    bundle: One[ConfigMap]
    configurations: dict[str, One[Configuration]]
    """By their kind."""
    roles: dict[tuple[str, str], One[Role]]
    bindings: dict[tuple[str, str], One[Binding]]
    """By kind and name, those that an installation has."""
