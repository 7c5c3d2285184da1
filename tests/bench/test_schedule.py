from bench.schedule import left, order, spoken


def test_everyone_has_one_turn_per_round_and_the_order_moves_on() -> None:
    assert order(["a", "b", "c"], 0) == ["a", "b", "c"]
    assert order(["a", "b", "c"], 1) == ["b", "c", "a"]
    assert order(["a", "b", "c"], 5) == ["c", "a", "b"]
    assert order([], 3) == []


def test_what_is_left_follows_the_pace_so_far() -> None:
    assert left(2, 10, 30.0) == 120.0
    assert left(0, 10, 5.0) == 0.0


def test_time_as_people_say_it() -> None:
    assert spoken(42.4) == "42 s"
    assert spoken(200) == "3 min 20 s"
    assert spoken(60) == "1 min 00 s"
