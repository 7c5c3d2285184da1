"""What annotations mean: one reading of ports and networks at both doors, and what a value that is none closes."""

from typing import Any

import pytest

from agent.objects.annotations import (
    OPAQUE,
    REQUIRE_IDENTITY,
    SKIP_INBOUND,
    SKIP_OUTBOUND,
    SKIP_SUBNETS,
    check,
    notes,
    settings,
)
from agent.objects.field import FaultError, Field
from agent.objects.model import ContainerPort, PortRange
from agent.policy.explain import Explainer, Explanation, Question, Verdict
from init.cli import options_of, parser
from init.model import MAX_SHOWN, OptionError
from tests.policy.world import World, manifest, text_of

PORTS: list[tuple[str, Any]] = [
    # what is written, and the ranges that are meant or words of why not
    ("22", ((22, 22),)),
    ("22,8000-8100", ((22, 22), (8000, 8100))),
    (" 22 , 8000 - 8100 ", ((22, 22), (8000, 8100))),
    ("22,", ((22, 22),)),
    (",,22,,", ((22, 22),)),
    ("", ()),
    (" , ", ()),
    ("1-65535", ((1, 65535),)),
    ("7-7", ((7, 7),)),
    ("0022", ((22, 22),)),
    ("8001-8100,8000,22,8050-8200", ((22, 22), (8000, 8200))),
    ("0", "'0' is not within the ports from 1 to 65535"),
    ("0-65535", "'0-65535' is not within the ports from 1 to 65535"),
    ("65536", "'65536' is not within"),
    ("22,1-65536", "'1-65536' is not within"),
    ("9-2", "range '9-2' ends before it begins; write 2-9"),
    ("ssh", "'ssh' is no port and no range"),
    ("1-", "'1-' is no port"),
    ("-1", "'-1' is no port"),
    ("1-2-3", "'1-2-3' is no port"),
    ("22;23", "'22;23' is no port"),
    ("+5", "'+5' is no port"),
    ("1.5", "'1.5' is no port"),
    ("٢", "'٢' is no port"),
    ("1" * 5000, f"{'1' * MAX_SHOWN!r} is no port"),
]
SUBNETS: list[tuple[str, Any, tuple[str, ...]]] = [
    # what is written, the networks or words of why not, and what is said besides
    ("192.0.2.0/24", ("192.0.2.0/24",), ()),
    ("192.0.2.0/24, 2001:db8::/32", ("192.0.2.0/24", "2001:db8::/32"), ()),
    ("2001:DB8::/32,192.0.2.0/24,192.0.2.0/24,", ("192.0.2.0/24", "2001:db8::/32"), ()),
    ("", (), ()),
    (" , ", (), ()),
    ("192.0.2.1", ("192.0.2.1/32",), ()),
    ("2001:db8::1", ("2001:db8::1/128",), ()),
    ("1.1.1.1/24", ("1.1.1.0/24",), ("1.1.1.1/24 has host bits set: 1.1.1.0/24 is what counts",)),
    ("2001:db8::1/32", ("2001:db8::/32",), ("2001:db8::1/32 has host bits set: 2001:db8::/32 is what counts",)),
    ("0.0.0.0/0", ("0.0.0.0/0",), ()),
    ("::/0", ("::/0",), ()),
    ("0.0.0.0", "0.0.0.0 has no prefix: write 0.0.0.0/0 if every address is meant", ()),
    ("192.0.2.0/24,::", ":: has no prefix: write ::/0", ()),
    ("0:0:0:0:0:0:0:0", "has no prefix", ()),
    ("1.1.1.1/0", "1.1.1.1/0 is every address: write 0.0.0.0/0 if that is meant", ()),
    ("10.0.0.1/99", "'10.0.0.1/99' is no address and no network", ()),
    ("10.0.0.0/", "'10.0.0.0/' is no address and no network", ()),
    ("10.0.0.0/255.0.0.0", "'10.0.0.0/255.0.0.0' is no address and no network", ()),
    ("10.0.0.0/ 8/8", "is no address and no network", ()),
    ("10", "'10' is no address and no network", ()),
    ("10.0.0", "'10.0.0' is no address", ()),
    ("fe80::1%eth0/64", "is no address and no network", ()),
    ("example.test", "'example.test' is no address", ()),
    ("1" * 5000, f"{'1' * MAX_SHOWN!r} is no address", ()),
]


def from_flag(flag: str, text: str) -> tuple[Any, tuple[str, ...]]:
    options, said = options_of(parser().parse_args(["show", f"--{flag}={text}"]))
    return getattr(options, flag.replace("-", "_")), said


def from_annotation(name: str, text: str, field: str) -> Any:
    return getattr(settings({name: Field(text, 7, name)}, {}, (), host_network=False), field)


@pytest.mark.parametrize(("text", "expected"), PORTS)
@pytest.mark.parametrize(
    ("flag", "name", "field"),
    [
        ("skip-inbound-ports", SKIP_INBOUND, "skip_inbound_ports"),
        ("skip-outbound-ports", SKIP_OUTBOUND, "skip_outbound_ports"),
        ("skip-inbound-ports", REQUIRE_IDENTITY, "identity_ports"),
        ("skip-inbound-ports", OPAQUE, "opaque_ports"),
    ],
)
def test_ports_mean_the_same_as_a_flag_and_as_an_annotation(
    text: str, expected: Any, flag: str, name: str, field: str
) -> None:
    if isinstance(expected, str):
        with pytest.raises(OptionError) as refused:
            from_flag(flag, text)
        assert str(refused.value).startswith(f"--{flag}: ")
        with pytest.raises(FaultError) as faulty:
            from_annotation(name, text, field)
        assert (faulty.value.line, faulty.value.reason.partition(": ")[0]) == (7, name)
        assert str(refused.value).partition(": ")[2] == faulty.value.reason.partition(": ")[2]
        assert expected in str(refused.value)
    else:
        assert from_flag(flag, text) == (expected, ())
        assert from_annotation(name, text, field) == tuple(PortRange(*each) for each in expected)


@pytest.mark.parametrize(("text", "expected", "said"), SUBNETS)
@pytest.mark.parametrize("flag", ["skip-inbound-subnets", "skip-outbound-subnets"])
def test_networks_mean_the_same_as_a_flag_and_as_an_annotation(
    text: str, expected: Any, said: tuple[str, ...], flag: str
) -> None:
    if isinstance(expected, str):
        with pytest.raises(OptionError, match=f"--{flag}: ") as refused:
            from_flag(flag, text)
        with pytest.raises(FaultError) as faulty:
            from_annotation(SKIP_SUBNETS, text, "skip_subnets")
        assert str(refused.value).partition(": ")[2] == faulty.value.reason.partition(": ")[2]
        assert expected in str(refused.value)
    else:
        assert from_flag(flag, text) == (expected, tuple(f"--{flag}: {note}" for note in said))
        assert from_annotation(SKIP_SUBNETS, text, "skip_subnets") == expected
        field = Field(text, 7)
        assert notes({SKIP_SUBNETS: field}) == [(field, f"{SKIP_SUBNETS}: {note}") for note in said]


def test_opaque_ports_may_be_called_by_name_and_those_of_a_namespace_by_another_pods_name() -> None:
    own = {OPAQUE: Field("http, 22", 3)}
    named = (ContainerPort("http", 8080), ContainerPort("", 9), ContainerPort("http", 8081))
    found = settings(own, {}, named, host_network=False).opaque_ports
    assert found == (PortRange(22, 22), PortRange(8080, 8081))
    with pytest.raises(FaultError, match="'http' is no port"):
        settings(own, {}, (), host_network=False)
    assert settings({}, {OPAQUE: "http, 22"}, (), host_network=False).opaque_ports == (PortRange(22, 22),)
    check(own)


# -- what cannot be read closes --

REFUSED = ("http", "9000-", "0", "9-2")


def asked(world: World, name: str, port: int) -> Explanation:
    explainer = Explainer(world.pods, world.policy, egress_mode="allow")
    return explainer.explain(Question(to=name, port=port, from_ip="10.1.0.9"))


@pytest.mark.parametrize("value", REFUSED)
@pytest.mark.parametrize("port", [9000, 9001])
def test_a_pod_whose_demand_for_identity_cannot_be_read_is_closed(value: str, port: int) -> None:
    body = {"metadata": {"annotations": {REQUIRE_IDENTITY: value}}, "status": {"podIP": "10.1.0.10"}}
    world = World(text_of([manifest("Pod demo/api", body)]), default="all-unauthenticated")
    (fault,) = world.faults
    assert fault.closed
    assert REQUIRE_IDENTITY in fault.reason
    assert asked(world, "demo/api", port).verdict is Verdict.DENY


@pytest.mark.parametrize("value", REFUSED)
@pytest.mark.parametrize("policy", ["all-unauthenticated", "cluster-unauthenticated", "audit"])
def test_a_namespace_whose_demand_cannot_be_read_demands_it_everywhere_even_of_pods_with_a_default_of_their_own(
    value: str, policy: str
) -> None:
    annotated = {"metadata": {"annotations": {"config.linkerd.io/default-inbound-policy": policy}}}
    world = World(
        text_of(
            [
                manifest("Namespace demo", {"metadata": {"annotations": {REQUIRE_IDENTITY: value}}}),
                manifest("Pod demo/own", annotated),
                manifest("Pod demo/inherits", {"metadata": {}}),
            ]
        ),
        default="all-unauthenticated",
    )
    (fault,) = world.faults
    assert fault.closed
    answer = asked(world, "demo/own", 9000)
    assert (answer.verdict, answer.decided_by) == (Verdict.DENY, f"default:{policy}+require-identity")
    assert REQUIRE_IDENTITY in answer.reason
    assert asked(world, "demo/inherits", 9000).verdict is Verdict.DENY


@pytest.mark.parametrize("name", [SKIP_INBOUND, SKIP_SUBNETS])
def test_a_pod_with_a_fault_skips_nothing_that_its_namespace_skips(name: str) -> None:
    """It may have an annotation of its own, which cannot be read now, that captures what the namespace leaves out."""
    value = {SKIP_INBOUND: "9000", SKIP_SUBNETS: "10.0.0.0/8"}[name]
    faulty = {"metadata": {"annotations": {name: "", REQUIRE_IDENTITY: "http"}}, "status": {"podIP": "10.1.0.10"}}
    world = World(
        text_of(
            [
                manifest("Namespace demo", {"metadata": {"annotations": {name: value}}}),
                manifest("Pod demo/api", faulty),
                manifest("Pod demo/web", {"metadata": {}}),
            ]
        )
    )
    assert asked(world, "demo/web", 9000).verdict is Verdict.ALLOW, "what a namespace skips is skipped"
    assert asked(world, "demo/api", 9000).verdict is Verdict.DENY
