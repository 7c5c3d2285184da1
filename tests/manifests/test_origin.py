"""Where an object was read, as it is printed."""

from agent.manifests.origin import Origin


def test_a_place_is_written_as_editors_find_it() -> None:
    assert str(Origin("pods.yaml", 7)) == "pods.yaml:7"
    assert str(Origin("pods.yaml")) == "pods.yaml:0"


def test_an_object_of_an_api_has_a_name_and_a_path_and_no_line() -> None:
    assert str(Origin(object="Server demo/api", path="spec.port")) == "Server demo/api"


def test_a_line_of_the_log_has_of_each_what_it_has() -> None:
    assert Origin("pods.yaml", 7).fields == {"file": "pods.yaml", "line": 7}
    assert Origin(object="Pod demo/api", path="spec").fields == {"object": "Pod demo/api", "path": "spec"}


def test_places_are_in_the_order_of_their_files_and_of_lines_as_numbers() -> None:
    assert sorted([Origin("a", 10), Origin("b", 1), Origin("a", 9)]) == [
        Origin("a", 9),
        Origin("a", 10),
        Origin("b", 1),
    ]
