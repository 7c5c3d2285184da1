"""Where an object was read, as it is printed."""

from agent.manifests.origin import Origin


def test_a_place_is_written_as_editors_find_it() -> None:
    assert str(Origin("pods.yaml", 7)) == "pods.yaml:7"
    assert str(Origin("pods.yaml")) == "pods.yaml:0"


def test_an_object_of_an_api_has_no_line() -> None:
    assert str(Origin()) == "the API server"


def test_places_are_in_the_order_of_their_files_and_of_lines_as_numbers() -> None:
    assert sorted([Origin("a", 10), Origin("b", 1), Origin("a", 9)]) == [
        Origin("a", 9),
        Origin("a", 10),
        Origin("b", 1),
    ]
