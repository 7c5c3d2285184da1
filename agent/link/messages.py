"""What the supervisor and its workers say to each other. One tagged union each way."""

from msgspec import Struct

from agent.catalog.snapshot import Catalog, CatalogChange
from agent.identity.spiffe import SpiffeId
from agent.identity.svid import Bundle, Svid
from agent.objects.key import PodKey
from agent.proxy.view import Settings
from agent.telemetry.counters import Key


class Configure(Struct, frozen=True, tag="configure"):
    """First of all: what holds for the whole agent.

    Descriptors: the memory of `workers` for the sessions that they serve, and that for who went where.
    """

    settings: Settings
    workers: int


class SetCatalog(Struct, frozen=True, tag="catalog"):
    """The whole catalog: for a worker that starts."""

    catalog: Catalog


class ChangeCatalog(Struct, frozen=True, tag="catalog_change"):
    """What is different in the catalog now."""

    change: CatalogChange


class SetNodeAddresses(Struct, frozen=True, tag="node_addresses"):
    """The node's own addresses: from there its kubelet probes the pods."""

    addresses: tuple[str, ...]


class SetBundle(Struct, frozen=True, tag="bundle"):
    """A new bundle is in force."""

    bundle: Bundle


class SetSvid(Struct, frozen=True, tag="svid"):
    """A new SVID is in force."""

    svid: Svid


class ForgetSvid(Struct, frozen=True, tag="forget_svid"):
    """No pod of this node needs this identity any more."""

    spiffe_id: SpiffeId


class Enrol(Struct, frozen=True, tag="enrol"):
    """Serve a pod. Descriptors: its network namespace, then one listening socket per name in `listeners`.

    The worker begins to listen only now: its SVID, the bundle and the catalog went before, on this same channel.
    """

    pod: PodKey
    mark: int
    """What it dials from inside the pod has it, and no more than that."""
    stand_ins: bool
    """What it dials may come from a stand-in's address (init.stand_in): the rules put the pod's own in its place."""
    listeners: tuple[str, ...]


class Unenrol(Struct, frozen=True, tag="unenrol"):
    """Stop serving a pod and end its connections."""

    pod: PodKey
    reason: str


class Drain(Struct, frozen=True, tag="drain"):
    """Accept nothing more; end when the last connection has, or after `seconds`."""

    seconds: float


class Scrape(Struct, frozen=True, tag="scrape"):
    """Send the counters now."""

    number: int


class Sync(Struct, frozen=True, tag="sync"):
    """Say when everything before this has been carried out."""

    number: int


ToWorker = (
    Configure
    | SetCatalog
    | ChangeCatalog
    | SetNodeAddresses
    | SetBundle
    | SetSvid
    | ForgetSvid
    | Enrol
    | Unenrol
    | Drain
    | Scrape
    | Sync
)


class Listening(Struct, frozen=True, tag="listening"):
    """The worker listens for this pod."""

    pod: PodKey


class EnrolFailed(Struct, frozen=True, tag="enrol_failed"):
    """The worker cannot serve this pod."""

    pod: PodKey
    reason: str


class Released(Struct, frozen=True, tag="released"):
    """The worker holds nothing of this pod any more."""

    pod: PodKey


class Counts(Struct, frozen=True, tag="counts"):
    """The worker's counters since it started, and what is live now by direction."""

    number: int
    values: dict[Key, int]
    live: dict[str, int]


class Synced(Struct, frozen=True, tag="synced"):
    """Everything before `Sync` of this number has been carried out."""

    number: int


class Drained(Struct, frozen=True, tag="drained"):
    """No connection is left; `ended` is how many had to be ended."""

    ended: int


class Alive(Struct, frozen=True, tag="alive"):
    """The worker's loop turns. Said of its own accord, whatever else it does (agent.link.pulse)."""


ToSupervisor = Alive | Listening | EnrolFailed | Released | Counts | Synced | Drained
