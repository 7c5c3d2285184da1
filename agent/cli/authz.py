"""`quietwire authz …`: who reaches what and why, policy tests as code, manifests checked before they are applied."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from agent.cli.paragraphs import typed
from agent.objects.policy import DEFAULT_CLUSTER_NETWORKS, DefaultPolicy

AsJson = Annotated[bool, Parameter(name="--json", negative="", help="One JSON document on stdout.")]

app = App(name="authz", help="Explain, test and check policy.")


@typed
@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PolicyFlags:
    """What an agent's flags say about policy: give the same ones.

    Parameters
    ----------
    trust_domain
        The SPIFFE trust domain of the mesh.
    default_inbound_policy
        Policy of a pod that has no config.linkerd.io/default-inbound-policy annotation.
    cluster_networks
        Networks of the cluster, separated by commas.
    egress_mode
        Whether pods may dial destinations outside the mesh, where no quietwire.io/egress-mode annotation says.
    """

    trust_domain: str = "cluster.local"
    default_inbound_policy: DefaultPolicy = DefaultPolicy.ALL_AUTHENTICATED
    cluster_networks: str = ",".join(DEFAULT_CLUSTER_NETWORKS)
    egress_mode: Literal["allow", "meshed-only"] = "allow"


_DEFAULTS = PolicyFlags()


@app.command
@typed
def explain(
    *,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    from_ip: str | None = None,
    from_id: str | None = None,
    to: str,
    port: str,
    manifests: Path | None = None,
    flags: PolicyFlags = _DEFAULTS,
    admin: str = "127.0.0.1:4191",
    as_json: AsJson = False,
) -> None:
    """Say whether a client reaches a port of a pod, what decides, and what each authorization lacked.

    Asks the running agent, or, with --manifests, answers as an agent would that starts with them. There a Deployment or
    another controller stands for its pods: shop/web is the pod of that name, or else of Deployment web; where the name
    is taken it is shop/deployment-web. Exits with 0 for every verdict, and with 2 where there is none.

    Example: quietwire authz explain --from shop/web --to shop/cart --port 8080

    Parameters
    ----------
    from_
        The client as NAMESPACE/POD.
    from_ip
        The client's address; a plaintext client where no --from-id is given.
    from_id
        Its SPIFFE ID, or its name as in web.shop.serviceaccount.identity.cluster.local.
    to
        The server as NAMESPACE/POD.
    port
        The port that the server's process listens on: a number, or its name in the pod.
    manifests
        Answer from these manifests. The flags about policy count only then: an agent has its own.
    admin
        HOST:PORT of the agent's admin server.
    """
    from agent.cli.work import authz
    from agent.policy.explain import Question

    question = Question(to=to, port=port, from_=from_, from_ip=from_ip, from_id=from_id)
    authz.explain(question, manifests, flags, admin, as_json=as_json)


@app.command(name="test")
@typed
def run_tests(
    file: Path,
    /,
    *,
    manifests: Path,
    flags: PolicyFlags = _DEFAULTS,
    allow_faults: Annotated[bool, Parameter(negative="")] = False,
    as_json: AsJson = False,
) -> None:
    """Run policy tests: a YAML list of {from, from-ip, from-id, to, port, expect, because}.

    Prints each that differs with its explanation, and exits with 1 if any does, or if a manifest has a fault. `expect`
    is allow, deny or audit; `because` is printed with a case that differs. No agent is needed, and no pods: a
    Deployment or another controller stands for those that it makes. shop/web is the pod of that name, or else of
    Deployment web; where the name is taken it is shop/deployment-web.

    Example: quietwire authz test policy-tests.yaml --manifests deploy/examples/shop

    Parameters
    ----------
    file
        The cases.
    manifests
        The directory of manifests that they are about.
    allow_faults
        Exit with 0 though manifests have faults, if all cases are as expected. What has a fault is not in force here,
        or closes what it may be about, while an agent may still have a former version of it.
    """
    from agent.cli.work import authz

    authz.run_tests(file, manifests, flags, allow_faults=allow_faults, as_json=as_json)


@app.command
@typed
def check(*files: Path, as_json: AsJson = False) -> None:
    """Validate manifests without an agent: every fault with file and line, and what is legal and surely not meant.

    Exits with 1 where there is a fault; warnings alone are 0. Directories are read whole.

    Example: quietwire authz check deploy/examples/shop

    Parameters
    ----------
    files
        Manifest files, or directories of them.
    """
    from agent.cli.work import authz

    authz.check(files, as_json=as_json)
