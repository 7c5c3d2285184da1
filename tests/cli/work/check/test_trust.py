"""Roots, issuer and the webhooks' CAs: when they end, and what cannot be used."""

import json
from typing import Any

import pytest

from agent.authority import ca
from agent.cli.work.check import trust
from agent.cli.work.check.finding import Verdict
from agent.cli.work.check.seen import ClientConfig, ConfigMap, Configuration, Meta, ServiceReference, Webhook
from agent.webhook import certificates
from tests.cli.work.check.objects import FORBIDDEN, NOW

OK, WARNING, WRONG, UNKNOWN = Verdict.OK, Verdict.WARNING, Verdict.WRONG, Verdict.UNKNOWN
DAY = 86400.0


def root(made: float) -> bytes:
    return ca.pem(ca.new_root("cluster.local", made).certificate)


ROOT = root(NOW)
ENDS = ca.new_root("cluster.local", NOW).certificate.not_valid_after_utc.timestamp()
LIFE = ENDS - NOW
LEAF = certificates.serving(certificates.new_authority(NOW), ["a.example"], NOW).chain_pem


def published(pem: bytes, issuer: float = NOW + 90 * DAY) -> ConfigMap:
    document = {"keys": [], "quietwire_issuer": {"key_id": "1", "not_after": issuer}}
    return ConfigMap({"ca.crt": pem.decode(), "bundle.json": json.dumps(document)})


@pytest.mark.parametrize(
    ("found", "verdict", "words"),
    [
        (published(ROOT), OK, "1 root, the first ends 20"),
        (published(ROOT + root(NOW - DAY)), OK, "2 roots"),
        (published(root(NOW + 20 * DAY - LIFE)), WARNING, "in 20.0 days"),
        (published(root(NOW - LIFE - DAY)), WRONG, "every root has expired"),
        (published(ROOT + root(NOW - LIFE - DAY)), WARNING, "1 of 2 roots have expired"),
        (published(root(NOW + DAY)), WRONG, "no root is valid yet"),
        (published(LEAF), WRONG, "none of ca.crt's certificates is a root"),
        (published(b"no certificate"), WRONG, "cannot be read"),
        (ConfigMap(), WRONG, "cannot be read"),
        (None, WRONG, "there is no ConfigMap quietwire-bundle"),
        (FORBIDDEN, UNKNOWN, "403"),
    ],
)
def test_roots_are_published_and_end_late(found: Any, verdict: Verdict, words: str) -> None:
    said = trust.bundle(found, "quietwire", NOW)
    assert said.verdict is verdict, said
    assert words in said.said


@pytest.mark.parametrize(
    ("found", "verdict", "words"),
    [
        (published(ROOT), OK, "ends 20"),
        (published(ROOT, NOW + 29 * DAY), WARNING, "in 29.0 days"),
        (published(ROOT, NOW - 1), WRONG, "has expired"),
        (ConfigMap({"bundle.json": "{"}), WARNING, "not in the bundle"),
        (ConfigMap({"bundle.json": "[]"}), WARNING, "not in the bundle"),
        (None, WARNING, "not in the bundle"),
        (FORBIDDEN, UNKNOWN, "403"),
    ],
)
def test_the_issuers_end_is_in_the_bundle(found: Any, verdict: Verdict, words: str) -> None:
    said = trust.issuer(found, "quietwire", NOW)
    assert said.verdict is verdict, said
    assert words in said.said


def vouched(made: float = NOW) -> bytes:
    return certificates.bundle([certificates.new_authority(made)], made)


def configuration(
    pem: bytes = vouched(), policy: str = "Fail", name: str = "inject.quietwire.io", of: str = "quietwire"
) -> Configuration:
    config = ClientConfig(pem, ServiceReference("quietwire-webhook", of))
    return Configuration(Meta("quietwire-webhook"), (Webhook(name, config, policy),))


YEAR = certificates.CA_SECONDS


@pytest.mark.parametrize(
    ("found", "verdict", "words"),
    [
        (configuration(), OK, "inject.quietwire.io: asked and believed, its CA ends 20"),
        (configuration(vouched(NOW - YEAR - DAY) + vouched()), OK, "asked and believed"),
        (configuration(b""), WRONG, "has no caBundle"),
        (configuration(b"no certificate"), WRONG, "cannot be read"),
        (configuration(vouched(NOW - YEAR - DAY)), WRONG, "has expired"),
        (configuration(vouched(NOW - YEAR + 5 * DAY)), WARNING, "in 5.0 days"),
        (configuration(policy="Ignore"), WARNING, "is let through"),
        (configuration(name="other.example"), WRONG, "has no webhook inject.quietwire.io"),
        (configuration(of="elsewhere"), WRONG, "calls another than Service quietwire/quietwire-webhook"),
        (Configuration(Meta(), (Webhook("inject.quietwire.io"),)), WRONG, "calls another"),
        (None, WRONG, "pods get no init container"),
        (FORBIDDEN, UNKNOWN, "403"),
    ],
)
def test_the_api_server_asks_our_webhooks_and_believes_them(found: Any, verdict: Verdict, words: str) -> None:
    said = trust.webhook(trust.MUTATING, found, configuration(b""), "quietwire", NOW)
    assert said.check == "injection"
    assert said.verdict is verdict, said
    assert words in said.said


def test_a_validation_that_fails_closed_is_warned_of_too() -> None:
    wanted = configuration(policy="Ignore")
    said = trust.webhook("ValidatingWebhookConfiguration", configuration(), wanted, "quietwire", NOW)
    assert (said.check, said.verdict) == ("validation", WARNING)
    assert "is refused" in said.said
