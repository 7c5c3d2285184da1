"""The CustomResourceDefinitions of policy.linkerd.io, from the kinds and versions that the decoders know. Pure."""

from typing import Any

from msgspec import Struct

from agent.objects import decode_policy, decode_routes
from agent.objects.policy import POLICY_GROUP
from deploy.helm import schema
from deploy.helm.schema import Schema

ACCESS = "accessPolicy"
STATUS = schema.anything("What controllers say of it.")


class Named(Struct, frozen=True):
    """What a kind is called, what it says, and what `kubectl get` shows of it: names and paths."""

    plural: str
    spec: Schema
    short: tuple[str, ...] = ()
    shown: tuple[tuple[str, str], ...] = ()
    status: bool = False


KINDS = {
    "Server": Named(
        "servers",
        schema.SERVER,
        ("srv",),
        (("Port", ".spec.port"), ("Protocol", ".spec.proxyProtocol"), ("Access Policy", ".spec.accessPolicy")),
    ),
    "ServerAuthorization": Named(
        "serverauthorizations",
        schema.SERVER_AUTHORIZATION,
        ("saz", "serverauthz", "srvauthz"),
        (("Server", ".spec.server.name"),),
    ),
    "AuthorizationPolicy": Named(
        "authorizationpolicies",
        schema.AUTHORIZATION_POLICY,
        ("authzpolicy",),
        (("Target", ".spec.targetRef.kind"), ("Name", ".spec.targetRef.name")),
    ),
    "MeshTLSAuthentication": Named(
        "meshtlsauthentications",
        schema.MESH_TLS_AUTHENTICATION,
        ("meshtlsauthn",),
        (("Identities", ".spec.identities"),),
    ),
    "NetworkAuthentication": Named(
        "networkauthentications",
        schema.NETWORK_AUTHENTICATION,
        ("netauthn", "networkauthn"),
        (("Networks", ".spec.networks[*].cidr"),),
    ),
    "EgressNetwork": Named(
        "egressnetworks", schema.EGRESS_NETWORK, (), (("Policy", ".spec.trafficPolicy"),), status=True
    ),
    "HTTPLocalRateLimitPolicy": Named(
        "httplocalratelimitpolicies",
        schema.RATE_LIMIT,
        ("httplocalratelimit",),
        (("Target", ".spec.targetRef.name"), ("Total", ".spec.total.requestsPerSecond")),
        status=True,
    ),
    "HTTPRoute": Named("httproutes", schema.HTTP_ROUTE, (), (("Hostnames", ".spec.hostnames"),), status=True),
}


def versions(kind: str) -> tuple[str, ...]:
    """The versions that the decoders know of a kind, the newest first: in that one it is stored."""
    if kind in decode_policy.KINDS:
        return decode_policy.KINDS[kind][0]
    return decode_routes.VERSIONS[kind, POLICY_GROUP]


def spec(kind: str, version: str) -> Schema:
    """What a kind says in one version. A Server's accessPolicy is the only field that not all versions have."""
    said = KINDS[kind].spec
    if kind != "Server":
        return said
    if version == versions(kind)[0]:
        return {**said, "properties": {**said["properties"], ACCESS: schema.ACCESS_POLICY}}
    return {**said, "not": {"required": [ACCESS]}}


def definition(kind: str) -> dict[str, Any]:
    """A kind's CustomResourceDefinition (apiextensions.k8s.io/v1)."""
    named = KINDS[kind]
    newest = versions(kind)[0]
    columns = [{"name": name, "type": "string", "jsonPath": path} for name, path in named.shown]
    served = [
        {
            "name": version,
            "served": True,
            "storage": version == newest,
            **({"subresources": {"status": {}}} if named.status else {}),
            "additionalPrinterColumns": [
                column for column in columns if version == newest or column["name"] != "Access Policy"
            ],
            "schema": {
                "openAPIV3Schema": {
                    "description": named.spec["description"],
                    "type": "object",
                    **({} if kind == "HTTPRoute" else {"required": ["spec"]}),
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": spec(kind, version),
                        **({"status": STATUS} if named.status else {}),
                    },
                }
            },
        }
        for version in versions(kind)
    ]
    names = {"kind": kind, "listKind": f"{kind}List", "plural": named.plural, "singular": kind.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{named.plural}.{POLICY_GROUP}"},
        "spec": {
            "group": POLICY_GROUP,
            "scope": "Namespaced",
            "names": {**names, **({"shortNames": list(named.short)} if named.short else {})},
            "versions": served,
        },
    }
