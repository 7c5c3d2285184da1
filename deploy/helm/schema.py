"""Structural schemas of policy.linkerd.io's kinds, in the terms of apiextensions.k8s.io/v1. Pure.

They admit whatever the decoders admit, and name every field that these know. What a schema does not know is kept
and not pruned, so that an agent sees a slip, and refuses it, instead of an object that lets in more than was written.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from agent.objects.decode_policy import PROTOCOLS
from agent.objects.policy import DefaultPolicy, Operator

Schema = dict[str, Any]
KEPT = "x-kubernetes-preserve-unknown-fields"


def text(description: str, *values: str) -> Schema:
    """A string; one of `values`, where there are any."""
    return {
        "description": description,
        "type": "string",
        **({"enum": [str(value) for value in values]} if values else {}),
    }


def flag(description: str) -> Schema:
    """A boolean."""
    return {"description": description, "type": "boolean"}


def number(description: str) -> Schema:
    """A whole number from 1 on."""
    return {"description": description, "type": "integer", "format": "int64", "minimum": 1}


def items(description: str, of: Schema, least: int = 0) -> Schema:
    """A list."""
    return {"description": description, "type": "array", "items": of, **({"minItems": least} if least else {})}


def mapping(
    description: str,
    properties: Mapping[str, Schema],
    required: Sequence[str] = (),
    one_of: Sequence[str] = (),
) -> Schema:
    """An object with fields, of which some must be there, and exactly one of `one_of`."""
    made: Schema = {"description": description, "type": "object", KEPT: True, "properties": dict(properties)}
    if required:
        made["required"] = list(required)
    if one_of:
        made["oneOf"] = [{"required": [name]} for name in one_of]
    return made


def anything(description: str) -> Schema:
    """An object that is kept as it is: nobody here reads it, or not all of it."""
    return {"description": description, "type": "object", KEPT: True}


def selector(of: str) -> Schema:
    """A label selector, as Kubernetes has it."""
    values = items("For In and NotIn: the values.", {"type": "string"})
    expression = mapping(
        "One condition on a label.",
        {
            "key": text("The label."),
            "operator": text("How it compares.", *Operator),
            "values": values,
        },
        required=("key", "operator"),
    )
    return mapping(
        f"Which {of}: those that meet all conditions. Empty: all.",
        {
            "matchLabels": {
                "description": "Labels that must be there, with these values.",
                "type": "object",
                "additionalProperties": {"type": "string"},
            },
            "matchExpressions": items("Conditions on labels.", expression),
        },
    )


def reference(description: str, *more: str, port: bool = False) -> Schema:
    """A reference to an object; `more` of the fields `namespace`, `sectionName`."""
    known = {
        "namespace": text("Its namespace; without it, the one of this object."),
        "sectionName": text("A part of it."),
    }
    fields = {
        "group": text("Its API group; empty or core for Kubernetes' own."),
        "kind": text("Its kind."),
        "name": text("Its name."),
        **{name: known[name] for name in more},
    }
    if port:
        fields["port"] = {"description": "A port of it.", "type": "integer", "format": "int32"}
    return mapping(description, fields, required=("name",) if port else ("kind", "name"))


NETWORK = mapping(
    "Addresses in CIDR form, or one address.",
    {
        "cidr": text("The network, as in 192.0.2.0/24."),
        "except": items("Networks inside it that are not meant.", {"type": "string"}),
    },
    required=("cidr",),
)

SERVER = mapping(
    "A port of pods, and who reaches it where no authorization says so.",
    {
        "podSelector": selector("pods of the namespace"),
        "externalWorkloadSelector": selector("external workloads of the namespace"),
        "port": {
            "description": "The number or the name of a container port.",
            "x-kubernetes-int-or-string": True,
        },
        "proxyProtocol": text("What is spoken there, where it is known.", *PROTOCOLS),
    },
    required=("port",),
    one_of=("podSelector", "externalWorkloadSelector"),
)
ACCESS_POLICY = text(
    "Who is let in besides those whom authorizations name; deny where nothing is said.", *DefaultPolicy
)

SERVER_AUTHORIZATION = mapping(
    "Lets clients reach Servers.",
    {
        "server": mapping(
            "The Servers of the namespace.",
            {"name": text("One, by its name."), "selector": selector("Servers of the namespace")},
            one_of=("name", "selector"),
        ),
        "client": mapping(
            "The clients.",
            {
                "networks": items("Where they come from; without it, the cluster's networks.", NETWORK),
                "unauthenticated": flag("Clients without mTLS too."),
                "meshTLS": mapping(
                    "Clients with mTLS.",
                    {
                        "unauthenticatedTLS": flag("Whoever speaks TLS, with an identity or without."),
                        "identities": items("By identity: a name, *.SUFFIX, a SPIFFE ID, or *.", {"type": "string"}),
                        "serviceAccounts": items(
                            "By service account.",
                            mapping(
                                "A service account.",
                                {
                                    "name": text("Its name."),
                                    "namespace": text("Its namespace; without it, the one of this object."),
                                },
                                required=("name",),
                            ),
                        ),
                    },
                ),
            },
        ),
    },
    required=("server", "client"),
)

AUTHORIZATION_POLICY = mapping(
    "Lets clients that meet every requirement reach a target.",
    {
        "targetRef": reference(
            "A Server, HTTPRoute or GRPCRoute of the namespace, or the namespace itself.", "namespace", "sectionName"
        ),
        "requiredAuthenticationRefs": items(
            "All must be met: at most one MeshTLSAuthentication or ServiceAccount, and one NetworkAuthentication. "
            "Empty: everybody is let in.",
            reference("An authentication.", "namespace"),
        ),
    },
    required=("targetRef", "requiredAuthenticationRefs"),
)

MESH_TLS_AUTHENTICATION = mapping(
    "Clients by identity.",
    {
        "identities": items("A name, *.SUFFIX, a SPIFFE ID, or * for every identity.", {"type": "string"}),
        "identityRefs": items(
            "By service account, or all service accounts of a namespace.", reference("An identity.", "namespace")
        ),
    },
    one_of=("identities", "identityRefs"),
)

NETWORK_AUTHENTICATION = mapping(
    "Clients by address.", {"networks": items("Where they come from.", NETWORK, least=1)}, required=("networks",)
)

EGRESS_NETWORK = mapping(
    "Destinations outside the cluster.",
    {
        "trafficPolicy": text("Whether they may be reached where no route says so.", "Allow", "Deny"),
        "networks": items("Where they are; without it, everywhere outside the cluster.", NETWORK, least=1),
    },
    required=("trafficPolicy",),
)


def _rate(description: str) -> Schema:
    return mapping(description, {"requestsPerSecond": number("So many.")}, required=("requestsPerSecond",))


RATE_LIMIT = mapping(
    "How many requests a Server takes.",
    {
        "targetRef": reference("The Server.", "namespace"),
        "total": _rate("Of all clients together."),
        "identity": _rate("Of each identity."),
        "overrides": items(
            "Of some identities, instead.",
            mapping(
                "So many of these.",
                {
                    "requestsPerSecond": number("So many."),
                    "clientRefs": items("Service accounts.", reference("A service account.", "namespace")),
                },
                required=("requestsPerSecond",),
            ),
        ),
    },
    required=("targetRef",),
)

HTTP_ROUTE = mapping(
    "Requests that hang on a Server, or go to a Service.",
    {
        "parentRefs": items("What it hangs on.", reference("A parent.", "namespace", "sectionName", port=True)),
        "hostnames": items("Hosts of the requests that are meant; without it, all.", {"type": "string"}),
        "rules": items("Which requests, and what becomes of them.", anything("One rule, as in the gateway API.")),
    },
)
