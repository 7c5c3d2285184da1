"""Every check is made, or is said not to have been made and why; none stops another."""

from typing import Any

import msgspec
import pytest

from agent.cli.work.check import judging
from agent.cli.work.check.asking import Cause, Untold
from agent.cli.work.check.expected import expected
from agent.cli.work.check.finding import Finding, Verdict, is_well
from agent.cli.work.check.seen import After, Before, Server
from tests.cli.work.check.objects import FORBIDDEN, NOW, namespace, node, pod, workload

WANTED = expected("quietwire")
SERVER = Server("https://192.0.2.1:6443", "v1.36.3", "admin", 0.0)
PARTS = (workload("quietwire-authority"), workload("quietwire-webhook"))
AGENT = workload("quietwire-agent")


def before(**seen: Any) -> tuple[Finding, ...]:
    fields = dict.fromkeys(Before.__struct_fields__, FORBIDDEN) | {"server": SERVER} | seen
    return judging.before(Before(**fields), WANTED)


def after(**seen: Any) -> tuple[Finding, ...]:
    fields: dict[str, Any] = dict.fromkeys(After.__struct_fields__, FORBIDDEN)
    fields |= {"server": SERVER, "daemon_sets": (AGENT,), "deployments": PARTS}
    fields |= {"configurations": dict.fromkeys(WANTED.configurations, FORBIDDEN)}
    fields |= {"roles": dict.fromkeys(WANTED.roles, FORBIDDEN), "bindings": dict.fromkeys(WANTED.bindings, FORBIDDEN)}
    return judging.after(After(**fields | seen), WANTED, "0.1.0", NOW)


def verdicts(findings: tuple[Finding, ...]) -> dict[str, Verdict]:
    assert len({each.check for each in findings}) == len(findings)
    return {each.check: each.verdict for each in findings}


def test_whatever_is_seen_every_check_is_told() -> None:
    assert tuple(verdicts(before())) == ("api", *judging.BEFORE)
    assert tuple(verdicts(after())) == ("api", *judging.AFTER)


@pytest.mark.parametrize("pre", [True, False])
def test_without_an_api_server_every_other_check_is_skipped_and_nothing_is_well(pre: bool) -> None:
    found = judging.unreachable(Untold(Cause.TOO_LATE, "it did not answer"), "https://192.0.2.1", pre=pre)
    assert tuple(verdicts(found)) == ("api", *(judging.BEFORE if pre else judging.AFTER))
    assert {each.verdict for each in found[1:]} == {Verdict.SKIPPED}
    assert not is_well(found)


def test_who_may_read_nothing_is_told_what_cannot_be_told_and_nothing_is_well() -> None:
    found = verdicts(after())
    assert {check for check, verdict in found.items() if verdict is Verdict.OK} == {
        "api", "version", "clock", "installation", "versions", "agent rollout", "authority rollout", "webhook rollout",
    }  # fmt: skip
    assert not is_well(after())


def test_without_an_installation_what_is_of_it_is_skipped_and_the_rest_is_not() -> None:
    for lacking in ({"daemon_sets": ()}, {"deployments": FORBIDDEN}):
        found = verdicts(after(**lacking, nodes=(node("one"),)))
        assert [check for check, verdict in found.items() if verdict is Verdict.SKIPPED] == [*judging.OF_INSTALLATION]
        assert found["nodes"] is Verdict.OK


def test_a_part_that_is_gone_is_named() -> None:
    (gone,) = [each for each in after(deployments=PARTS[1:]) if each.check == "authority rollout"]
    assert (gone.verdict, gone.said) == (Verdict.WRONG, "there is no Deployment quietwire-authority")


def test_an_installation_without_webhooks_is_warned_of_and_misses_none_of_their_roles() -> None:
    roles = {key: each for key, each in WANTED.roles.items() if key[1] != "quietwire-webhook"}
    bindings = {key: each for key, each in WANTED.bindings.items() if key[1] != "quietwire-webhook"}
    found = verdicts(
        after(
            deployments=PARTS[:1],
            configurations=dict.fromkeys(WANTED.configurations),
            roles={**dict.fromkeys(WANTED.roles), **roles},
            bindings={**dict.fromkeys(WANTED.bindings), **bindings},
        )
    )
    assert found["webhook"] is Verdict.WARNING
    assert found["roles"] is Verdict.OK
    assert not {"injection", "validation", "webhook rollout"} & found.keys()


def test_with_a_configuration_a_missing_webhook_is_wrong() -> None:
    kind, one = next(iter(WANTED.configurations.items()))
    found = verdicts(after(deployments=PARTS[:1], configurations=dict.fromkeys(WANTED.configurations) | {kind: one}))
    assert found["webhook rollout"] is Verdict.WRONG


def test_webhooks_that_run_and_are_never_asked_are_wrong() -> None:
    found = verdicts(after(configurations=dict.fromkeys(WANTED.configurations)))
    assert (found["injection"], found["validation"]) == (Verdict.WRONG, Verdict.WRONG)


def test_beside_linkerd_its_pods_are_not_taken_for_open_ones() -> None:
    theirs = {"pods": (pod("a"),), "namespaces": (namespace("demo", inject="enabled"),), "linkerd": PARTS}
    beside = workload("quietwire-agent", args=["--beside-linkerd"])
    assert verdicts(after(**theirs))["pods"] is Verdict.WRONG
    found = verdicts(after(**theirs, daemon_sets=(beside,)))
    assert (found["pods"], found["linkerd"]) == (Verdict.OK, Verdict.OK)


def test_findings_are_one_json_document() -> None:
    (first, *_) = msgspec.json.decode(msgspec.json.encode(before()))
    assert first["check"] == "api"
    assert first["verdict"] == "ok"
