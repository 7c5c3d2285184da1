"""Properties are judged by what they say, and not by how long an example takes: the machine may be busy."""

from hypothesis import settings

settings.register_profile("quietwire", deadline=None)
settings.load_profile("quietwire")
