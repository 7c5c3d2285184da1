"""Quietwire side by side with its peers, in one run.

contender   whatever carries the client's connections to the server: a peer, quietwire, or an end of the scale
peer        nginx, haproxy, stunnel: a pair of proxies, one beside the client and one beside the server
ground      two namespaces on a bridge, with the backend in the server's; each contender's own, made anew in every round
front       what the client dials to reach the backend through a contender
turn        one contender on fresh ground, from its start to its stop: a round
round       everyone is up, and takes each measure, one after the other
measure     what is done in a turn: `requests_64`, `connections`, `memory` …
figure      one number that a measure gives: `p50_64`, `cpu_us_per_request` …
"""
