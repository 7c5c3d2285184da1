"""Whose namespaces are the agent's."""

import os
from pathlib import Path

import pytest

from agent.node.roster import Roster
from agent.objects.key import PodKey
from tests.node.places import Places


def test_one_that_was_enrolled_before_under_the_same_name_is_not_in_it(tmp_path: Path) -> None:
    places, roster = Places(tmp_path), Roster()
    former, now = places.enrolled("api"), places.enrolled("api")
    roster.pods[now.key] = now
    assert now in roster
    assert former not in roster
    former.close()
    roster.close()


def test_a_namespace_has_a_holder_only_while_a_pod_is_enrolled_in_it(tmp_path: Path) -> None:
    places, roster = Places(tmp_path), Roster()
    api, web = places.enrolled("api"), places.enrolled("web")
    roster.pods |= {api.key: api, web.key: web}
    assert roster.holder(api.identity) == PodKey("demo/api")
    assert not roster.is_left(api)
    roster.left[api.identity] = roster.pods.pop(api.key)
    assert roster.holder(api.identity) is None
    assert roster.is_left(api)
    assert roster.all == [web, api], "its rules are kept all the same"
    roster.close()


def test_whoever_closes_it_closes_what_was_left_too(tmp_path: Path) -> None:
    places, roster = Places(tmp_path), Roster()
    api, web = places.enrolled("api"), places.enrolled("web")
    roster.pods[api.key] = api
    roster.left[web.identity] = web
    roster.close()
    assert roster.all == []
    for enrolled in (api, web):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(enrolled.fd)
