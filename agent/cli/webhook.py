"""`quietwire webhook …`: what a cluster's API server asks before it stores an object."""

from pathlib import Path
from typing import Literal

from cyclopts import App

from agent.cli.agent_flags import LogFormat, LogLevel
from agent.cli.paragraphs import typed
from init.constants import AGENT_SOCKET

app = App(name="webhook", help="Answer a cluster's API server before it stores an object.")


@app.command
@typed
def run(
    *,
    image: str,
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent",
    enrol_directory: Path = Path(AGENT_SOCKET).parent,
    enrol_timeout: int = 300,
    listen: str = "0.0.0.0:9443",
    namespace: str = "",
    service: str = "quietwire-webhook",
    name: list[str] | None = None,
    secret: str = "quietwire-webhook",  # noqa: S107 - the name of an object
    configuration: str = "quietwire-webhook",
    kubeconfig: Path | None = None,
    context: str = "",
    log_format: LogFormat = "json",
    log_level: LogLevel = "info",
) -> None:
    """Run the admission webhooks in the foreground: /mutate and /validate, by HTTPS. SIGTERM ends them.

    /mutate adds an init container to pods that are to be captured; /validate says what `quietwire authz check` says.
    Any number may run. They keep their CAs in a Secret, and tell the API server whom to believe by their
    MutatingWebhookConfiguration and ValidatingWebhookConfiguration; all three have to be there.

    Example: quietwire webhook run --image localhost/quietwire:0.1.0

    Parameters
    ----------
    image
        Of the init containers: this very one.
    image_pull_policy
        When a node fetches it.
    enrol_directory
        The directory of the agents' enrolment socket, on every node.
    enrol_timeout
        Seconds that an init container waits for its agent before it fails, and is started again.
    listen
        HOST:PORT of the webhooks.
    namespace
        Where the Service and the Secret are; the pod's own where none is given.
    service
        The Service by which the API server reaches them: the certificate is for SERVICE.NAMESPACE.svc.
    name
        Another DNS name by which the API server may call; give the flag again for more.
    secret
        The Secret in which their CAs are kept.
    configuration
        What both WebhookConfigurations are called.
    kubeconfig
        A kubeconfig, where this is no pod; or that which kubectl would take.
    context
        Its context, where it is not the current one.
    log_format
        JSON lines, or text for people.
    log_level
        The least severe level that is logged.
    """
    from agent.cli.work import webhook
    from agent.webhook.injection import InjectionSettings

    injection = InjectionSettings(
        image=image,
        pull_policy=image_pull_policy,
        enrol_directory=str(enrol_directory),
        enrol_seconds=enrol_timeout,
    )
    where = webhook.Where(namespace, service, tuple(name or ()), secret, configuration)
    webhook.run(where, injection, listen, kubeconfig, context, log_format, log_level)
