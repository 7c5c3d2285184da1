"""Ratios are taken within each round."""

from bench.pairs import table


def test_what_slows_a_whole_round_down_is_in_no_ratio() -> None:
    shown = table({"nginx": [100.0, 300.0, 110.0], "this": [120.0, 360.0, 132.0]}, "nginx").splitlines()
    assert shown[1].split() == ["nginx", "110", "100", "1.000"]
    assert shown[2].split() == ["this", "132", "120", "1.200"]
