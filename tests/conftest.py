"""Properties are judged by what they say, and not by how long an example takes: the machine may be busy.

The cluster of a run is brought up by whichever of its processes needs it, and taken down by the one that was called.
"""

from hypothesis import settings

settings.register_profile("quietwire", deadline=None)
settings.load_profile("quietwire")

pytest_plugins = ["tests.kubernetes.run"]
