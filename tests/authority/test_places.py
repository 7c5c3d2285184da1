"""Who yields where connections are too many: the pure half, with every address."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.authority.places import (
    MAX_AGENTS,
    MAX_OF_ONE_ADDRESS,
    MAX_OF_ONE_AGENT,
    MAX_STRANGERS,
    Place,
    Places,
    network,
)


@pytest.mark.parametrize(
    ("address", "told_by"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
        ("fe80::1", "fe80::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("fe80::2%eth0", "fe80::2%eth0"),
        ("nobody", "nobody"),
    ],
)
def test_what_one_sender_is_told_by(address: str, told_by: str) -> None:
    assert network(address) == told_by


class Crowd:
    """Places, and who was ended."""

    def __init__(self) -> None:
        self.places = Places()
        self.ended: list[Place] = []

    def come(self, owner: str, *, served: bool = False) -> Place | None:
        place = Place(owner, lambda: self.ended.append(place))
        place.is_served = lambda: served
        return place if self.places.enter(place) else None

    def crowd(self, owner: str, count: int, *, served: bool = False) -> list[Place | None]:
        return [self.come(owner, served=served) for _ in range(count)]


def test_of_one_address_the_oldest_that_waits_for_its_client_yields() -> None:
    crowd = Crowd()
    served = crowd.come("a", served=True)
    first, second, *_ = crowd.crowd("a", MAX_OF_ONE_ADDRESS - 1)
    crowd.crowd("a", 2)
    assert crowd.ended == [first, second]
    assert served is not None
    assert served.shelf is crowd.places.strangers
    assert crowd.places.strangers.count == MAX_OF_ONE_ADDRESS


def test_where_all_of_one_address_are_being_served_the_next_is_not() -> None:
    crowd = Crowd()
    crowd.crowd("a", MAX_OF_ONE_ADDRESS, served=True)
    assert crowd.come("a") is None
    assert crowd.ended == []
    assert crowd.come("b") is not None, "another address is not concerned"


def test_where_all_places_are_taken_the_busiest_address_yields() -> None:
    crowd = Crowd()
    quiet = crowd.crowd("quiet", 2)
    full = (MAX_STRANGERS - 2) // MAX_OF_ONE_ADDRESS
    for number in range(full):
        crowd.crowd(f"busy {number}", MAX_OF_ONE_ADDRESS)
    crowd.crowd("rest", MAX_STRANGERS - 2 - full * MAX_OF_ONE_ADDRESS)
    assert crowd.come("new") is not None
    assert [place.owner for place in crowd.ended] == ["busy 0"]
    assert all(place is not None and place.shelf is not None for place in quiet)


def test_agents_have_places_that_no_stranger_can_take_and_each_its_own_bound() -> None:
    crowd = Crowd()
    known = crowd.come("a")
    assert known is not None
    assert crowd.places.know(known, "node-a")
    for number in range(MAX_STRANGERS // MAX_OF_ONE_ADDRESS + 1):
        crowd.crowd(f"stranger {number}", MAX_OF_ONE_ADDRESS)
    assert known not in crowd.ended
    assert (crowd.places.agents.count, crowd.places.strangers.count) == (1, MAX_STRANGERS)
    assert MAX_AGENTS > MAX_STRANGERS
    for _ in range(MAX_OF_ONE_AGENT):
        place = crowd.come("a")
        assert place is not None
        assert crowd.places.know(place, "node-a")
    assert crowd.ended[-1] is known, "its own oldest yields, and nobody else's"
    assert crowd.places.agents.count == MAX_OF_ONE_AGENT


def test_nobody_yields_where_nobody_is() -> None:
    assert not Crowd().places.strangers.crowd_out()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60), st.booleans()), max_size=300))
def test_the_books_are_right_whatever_comes_and_goes(steps: list[tuple[int, int, bool]]) -> None:
    crowd, here = Crowd(), list[Place]()
    for what, number, served in steps:
        if what < 2:
            place = crowd.come(f"address {number % 3}", served=served)
            here += [] if place is None else [place]
        elif here and what == 2:
            crowd.places.know(here[number % len(here)], f"node {number % 2}")
        elif here:
            crowd.places.leave(here[number % len(here)])
        shelved = [place for place in here if place.shelf is not None]
        assert crowd.places.strangers.count + crowd.places.agents.count == len(shelved)
        assert all(place.shelf is None for place in crowd.ended)
        assert crowd.places.strangers.count <= 3 * MAX_OF_ONE_ADDRESS
        assert crowd.places.agents.count <= 2 * MAX_OF_ONE_AGENT
