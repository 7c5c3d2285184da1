import pytest

from bench.__main__ import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--contenders", "nginx,apache"], "no such contender: apache"),
        (["--measures", "nonsense"], "neither a measure"),
        (["--rounds", "0"], "at least 1"),
        (["--quick", "--smoke"], "not allowed with"),
    ],
)
def test_a_mistake_is_said_before_anything_is_started(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "python -m bench --quick" in capsys.readouterr().out
