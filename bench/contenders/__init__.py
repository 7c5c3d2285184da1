"""Who takes part. Each is a pair, one half beside the client and one beside the server, or an end of the scale."""

from collections.abc import Callable

from bench.contenders.bare import Bare
from bench.contenders.contender import Contender
from bench.contenders.direct import Direct
from bench.contenders.haproxy import Haproxy
from bench.contenders.nginx import Nginx
from bench.contenders.quietwire import Quietwire
from bench.contenders.stunnel import Stunnel

REFERENCE = "nginx"
"""Whom the others are compared with."""

CONTENDERS: dict[str, Callable[[], Contender]] = {
    "direct": Direct,
    "bare": Bare,
    "nginx": Nginx,
    "haproxy": Haproxy,
    "stunnel": Stunnel,
    "quietwire": Quietwire,
}
"""Everyone who takes every measure, by name, in the order of the first round."""

SCALE = ("direct", "bare")
"""Who gives the ends of the scale, and no ratio that counts."""

NO_PROXY = "direct"
"""Who has neither CPU nor memory."""

SCALED = "quietwire"
TWO_WORKERS = "quietwire-2"
"""SCALED with two workers. It takes only the measure `scaling`."""


def two_workers() -> Contender:
    """Makes TWO_WORKERS."""
    return Quietwire(workers=2)
