"""What the admin server answers: facts in, JSON out."""

import json
import re
from typing import Any, cast

import msgspec
import pytest

from agent.catalog.source import SourceState
from agent.manifests.fault import Fault
from agent.manifests.origin import Origin
from agent.node.facts import Facts
from agent.node.status import Scraped, Status, above
from agent.objects.key import PodKey
from agent.policy.explain import Explainer, Question, QuestionError
from agent.telemetry.admin import Response
from agent.telemetry.counters import Counters, CounterTotals
from tests.tls.pki import Pki

READY = Facts(
    ready=True,
    waiting={},
    captured=2,
    left=1,
    ports_occupied={},
    foreign_nat=0,
    capabilities={"NET_RAW": 1},
    conntrack_used=0.5,
    rule_repairs=3,
    catalog_version=7,
    catalog=SourceState(),
    faults=(),
    findings=(),
    identity_faults=(),
    expiries={"spiffe://example.test/ns/demo/sa/web": 5.0},
    bundle=None,
    clock_skew=None,
    authority_restarts=0,
    worker_restarts={},
)


class Explains:
    """Takes every question, but for those about one pod."""

    def explain(self, question: Question) -> dict[str, object]:
        if question.to == "demo/nobody":
            raise QuestionError("there is no pod demo/nobody")
        return {"to": question.to, "port": question.port}


async def answer(path: str, facts: Facts = READY, **query: str) -> Response:
    totals, counters = CounterTotals(), Counters()
    counters.opened("inbound", "mtls")
    totals.update(0, 1, counters.snapshot())

    async def scraped() -> Scraped:
        return Scraped(totals, {"inbound": 4})

    status = Status(lambda: facts, scraped, lambda: cast("Explainer", Explains()))
    return await status.handlers()[path](query)


async def test_readiness_is_the_status_and_names_who_holds_it_back() -> None:
    ready = await answer("/ready")
    assert (ready.status, json.loads(ready.body)) == (
        200,
        {
            "ready": True,
            "pods": 2,
            "catalog": {"version": 7, "remembered": False, "unheard": {}},
            "waiting": [],
            "faults": [],
            "warnings": [],
        },
    )
    waiting = {PodKey("demo/web"): "no address", PodKey("demo/api"): "its SVID has not come yet"}
    fault = Fault(Origin("a.yaml", 3), "Server demo/api", "no port", closed=True)
    facts = msgspec.structs.replace(
        READY, ready=False, waiting=waiting, faults=(fault,), identity_faults=("a root is left out",)
    )
    held_back = await answer("/ready", facts)
    body = json.loads(held_back.body)
    assert held_back.status == 503
    assert body["waiting"] == [
        {"pod": "demo/api", "reason": "its SVID has not come yet"},
        {"pod": "demo/web", "reason": "no address"},
    ]
    assert body["faults"] == [str(fault), "a root is left out"]


async def test_a_catalog_that_is_not_fresh_is_marked_and_holds_nothing_back() -> None:
    state = SourceState(remembered=True, unheard=(("Pod", "refused"), ("Server", "refused")), since=1.0)
    facts = msgspec.structs.replace(READY, catalog=state)
    ready = await answer("/ready", facts)
    assert ready.status == 200
    assert json.loads(ready.body)["catalog"] == {
        "version": 7,
        "remembered": True,
        "unheard": {"Pod": "refused", "Server": "refused"},
    }
    page = (await answer("/metrics", facts)).body.decode()
    assert "quietwire_catalog_remembered 1.0" in page
    (pods,) = re.findall(r'quietwire_catalog_unheard_seconds\{kind="Pod"\} (\S+)', page)
    assert float(pods) > 1e9, "since the first second of 1970"


async def test_an_agent_that_is_not_ready_is_alive() -> None:
    alive = await answer("/live", msgspec.structs.replace(READY, ready=False))
    assert (alive.status, alive.body) == (200, b"alive\n")


async def test_the_metrics_have_what_was_counted_and_what_is() -> None:
    waiting = {PodKey("demo/web"): "no address"}
    page = (await answer("/metrics", msgspec.structs.replace(READY, waiting=waiting))).body.decode()
    for wanted in (
        'quietwire_connections_opened_total{direction="inbound",security="mtls"} 1.0',
        'quietwire_connections_live{direction="inbound"} 4.0',
        'quietwire_pods{state="captured"} 2.0',
        'quietwire_pods{state="waiting"} 1.0',
        'quietwire_pods{state="left"} 1.0',
        "quietwire_rule_repairs_total 3.0",
        "quietwire_catalog_version 7.0",
        "quietwire_bundle_sequence 0.0",
    ):
        assert wanted in page


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ({"from": "demo/web", "to": "demo/api", "port": "80"}, 200, '{"to":"demo/api","port":"80"}'),
        ({"from": "demo/web", "to": "demo/nobody", "port": "80"}, 400, "there is no pod demo/nobody"),
        ({"from": "demo/web", "port": "80"}, 400, "missing required field `to`"),
    ],
)
async def test_a_question_that_cannot_be_answered_is_said_to_be_the_askers_fault(
    query: dict[str, Any], status: int, said: str
) -> None:
    found = await answer("/authz", **query)
    assert found.status == status
    assert said in found.body.decode()


def test_what_is_above_all_svids_is_the_issuer_and_each_root() -> None:
    pki, other = Pki(), Pki()
    bundle = pki.bundle()
    both = msgspec.structs.replace(
        bundle, anchors_pem=bundle.anchors_pem + other.bundle().anchors_pem, issuer_expires=9.0
    )
    found = above(both)
    assert found.pop("issuer") == 9.0
    assert sorted(found.values()) == sorted(
        each.root.certificate.not_valid_after_utc.timestamp() for each in (pki, other)
    )
    assert len(found) == 2
    assert all(name.startswith("root ") for name in found)
    assert "issuer" not in above(bundle), "one whose end is not known has none"
    assert above(None) == {}
