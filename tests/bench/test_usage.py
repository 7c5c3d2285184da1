import os

import pytest

from bench import usage
from bench.usage import Stat, parse_pss, parse_stat, tree

# proc_pid_stat(5): pid (comm) state ppid … utime stime cutime cstime …, fields 14 to 17
LINE = "42 (a (b) c) S 7 42 42 0 -1 4194560 100 0 0 0 150 50 20 5 20 0 1 0 12345 1000 200 18446744073709551615"


def test_a_name_with_spaces_and_parentheses_is_skipped() -> None:
    assert parse_stat(LINE, tick=0.01) == Stat(42, 7, 225 * 0.01)


@pytest.mark.parametrize("line", ["", "42 (short) S 7", "no parentheses at all"])
def test_a_line_that_is_none_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="no line of"):
        parse_stat(line)


def test_memory_is_in_bytes_and_without_the_pages_of_files() -> None:
    head = "00400000-7ffd000 ---p 00000000 00:00 0 [rollup]\nRss: 900 kB\nPss:     120 kB\n"
    assert parse_pss(f"{head}Pss_Anon:   7 kB\nPss_File: 100 kB\nPss_Shmem: 13 kB\n") == 20 * 1024
    with pytest.raises(ValueError, match="no 'Pss_Anon'"):
        parse_pss(head)


def test_a_tree_has_everything_below_its_roots_once() -> None:
    stats = [Stat(1, 0, 1), Stat(2, 1, 1), Stat(3, 2, 1), Stat(4, 3, 1), Stat(5, 1, 1)]
    assert {stat.pid for stat in tree([2], stats)} == {2, 3, 4}
    assert sorted(stat.pid for stat in tree([2, 3], stats)) == [2, 3, 4]
    assert tree([9], stats) == []


def test_this_process_has_used_time_and_memory() -> None:
    assert usage.cpu_seconds([os.getpid()]) > 0
    assert usage.memory_bytes([os.getpid()]) > 1_000_000
    assert usage.title(os.getpid()), "whatever it calls itself"


def test_nobody_uses_nothing() -> None:
    assert usage.cpu_seconds([]) == 0
    assert usage.memory_bytes([]) == 0
    assert usage.title(0) == ""
