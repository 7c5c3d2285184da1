"""`quietwire install`: what an installation is made of."""

from agent.cli.paragraphs import typed


@typed
def install(
    *,
    namespace: str = "quietwire",
    image: str = "",
    trust_domain: str = "cluster.local",
    definitions: bool = True,
) -> None:
    """Print the objects of an installation on a cluster: those of the Helm chart, by its defaults.

    Example: quietwire install | kubectl apply -f -

    Parameters
    ----------
    namespace
        Where agents and authority run; it is printed too, as one that may have privileged pods.
    image
        What they run; localhost/quietwire in this version, where nothing is given.
    trust_domain
        The SPIFFE trust domain of the mesh.
    definitions
        Whether the kinds of policy.linkerd.io are printed: not where Linkerd's are, which would be overwritten.
    """
    from agent.cli.work import installing

    installing.install(namespace, image, trust_domain, definitions=definitions)
