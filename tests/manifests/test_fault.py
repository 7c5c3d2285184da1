"""A fault as it is printed: where, what, and what is in force instead."""

from agent.manifests.fault import Fault, Remark
from agent.manifests.origin import Origin

AT = Origin("a.yaml", 3)


def test_a_fault_says_what_is_in_force_instead() -> None:
    said = "a.yaml:3: Server demo/api: spec.port: a port is expected"
    fault = Fault(AT, "Server demo/api", "spec.port: a port is expected")
    assert str(fault) == f"{said}; it is not in force"
    kept = Fault(AT, fault.object, fault.reason, last_good=True)
    assert str(kept) == f"{said}; its last good version stays in force"
    closed = Fault(AT, fault.object, fault.reason, closed=True)
    assert str(closed) == f"{said}; until it is mended, what it should decide is denied"
    both = Fault(AT, fault.object, fault.reason, last_good=True, closed=True)
    assert str(both) == str(kept), "the last good version decides"


def test_a_file_that_is_no_object_has_no_name() -> None:
    assert str(Fault(AT, "", "no YAML")) == "a.yaml:3: no YAML; it is not in force"


def test_a_remark_says_where_and_of_what() -> None:
    assert str(Remark(AT, "Pod demo/api", "nobody reads it")) == "a.yaml:3: Pod demo/api: nobody reads it"


def test_an_object_of_an_api_is_named_once() -> None:
    at = Origin(object="Server demo/api", path="spec.port")
    fault = Fault(at, "Server demo/api", "spec.port: a port is expected")
    assert str(fault) == "Server demo/api: spec.port: a port is expected; it is not in force"
    assert str(Remark(at, "Server demo/api", "nobody reads it")) == "Server demo/api: nobody reads it"
