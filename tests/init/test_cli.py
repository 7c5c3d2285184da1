"""The command line of `quietwire init`, as far as it needs no root."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from init.cli import main


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_show_prints_every_rule_and_route_and_touches_nothing(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--backend", backend, "--skip-outbound-ports", "22,8000-8100"]) == 0
    said = capsys.readouterr().out
    for words in (
        "4140",
        "4143",
        "AGENT_MARK",
        "0x111",
        "ip rule add fwmark 0x111/0xfff lookup 100",
        "ip -6 route add local ::/0 dev lo table 100",
        {"legacy": "22,8000:8100", "nft": "{ 22, 8000-8100 }"}[backend],
    ):
        assert words in said


def test_show_as_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--json", "--no-ipv6"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["verb"], said["backend"], said["families"]) == ("show", "legacy", ["IPv4"])
    assert "REDIRECT --to-ports 4140" in said["rules"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "--skip-inbound-ports", "80,http"], "'http' is no port"),
        (["show", "--skip-inbound-subnets", "0.0.0.0"], "--skip-inbound-subnets: 0.0.0.0 has no prefix"),
        (["show", "--skip-outbound-ports", "0-65535"], "--skip-outbound-ports: '0-65535' is not within"),
        (["show", "--inbound-port", "4140"], "both 4140"),
        (["check", "--netns", "no-such-namespace"], "/run/netns/no-such-namespace does not exist"),
        (["check", "--netns", "/etc/hostname"], "/etc/hostname is no network namespace"),
        (["check", "--pid", "999999999"], "/proc/999999999/ns/net does not exist"),
    ],
)
def test_bad_input_is_named_and_exits_with_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err
    assert main([*arguments, "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is False
    assert words in said["error"]


@pytest.mark.parametrize(
    "arguments", [[], ["install"], ["apply", "--netns", "a", "--pid", "1"], ["show", "--backend", "bpf"]]
)
def test_usage_errors_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "quietwire init" in capsys.readouterr().err


def test_help_has_examples_and_says_what_passes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["apply", "--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "quietwire init apply --netns web" in said
    assert "UDP and QUIC pass" in said


@pytest.mark.parametrize("module", ["init.cli", "init.engine", "init.client"])
def test_nothing_of_the_agent_is_loaded_for_it(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print([name for name in sys.modules if name[:5] == 'agent'])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_libxtables_is_not_loaded_into_the_process_that_forks(tmp_path: Path) -> None:
    code = "import sys, init.engine, init.cli, init.batch; print('iptc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "False\n"
