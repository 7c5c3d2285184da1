"""Quietwire's node agent. One vocabulary, in code, documents, metrics and messages.

pod                   one network namespace with an address, a namespace, a service account, labels
enrolled              its network namespace has the rules and the agent holds its listeners
meshed                a pod that some agent enrols; peers must speak mTLS to it and it to them
left                  a namespace that is no pod's any more, and in which somebody lives: its rules stay, and refuse
original destination  what the application dialled, before REDIRECT
SVID                  X.509-SVID: leaf, intermediates and key for one SPIFFE ID
                      spiffe://<trust domain>/ns/<namespace>/sa/<service account>
bundle                the trust anchors of one trust domain
authority             the CA role: attests agents, signs SVIDs, publishes the bundle
catalog               what exists: pods, services, endpoints, policies, as an immutable snapshot with a version
front                 what is behind an address and port of a service, for the pods of one node
permit, denial        the result of `authorize`; a denial always carries its reason
outcome               how a connection ended: one enum for metrics, access log and tests (agent/outcome.py)
supervisor            the process that owns whatever outlives a worker: enrolment, listeners, SVIDs, catalog, admin
worker                a process that owns connections, and nothing else
channel               the socketpair between the supervisor and one worker; carries snapshots, and descriptors
outbound, inbound     the two sides of a meshed connection, seen from the pod
leg                   one TCP connection of a relayed pair: towards the application, or towards the peer
"""
