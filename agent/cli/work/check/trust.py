"""Judges certificates: the mesh's roots and issuer as published, and whom the API server believes of webhooks. Pure."""

import json
import time

from cryptography import x509

from agent.authority.kubernetes.bundle_maps import NAME
from agent.cli.work.check.asking import Untold
from agent.cli.work.check.cluster import untold
from agent.cli.work.check.finding import Finding, counted, names, ok, warning, wrong
from agent.cli.work.check.seen import ConfigMap, Configuration, One
from agent.identity import anchors
from agent.identity.expiry import Nearness, nearness

MUTATING = "MutatingWebhookConfiguration"
ROTATE = "quietwire authority rotate-root start --auto --kubernetes"


def bundle(found: One[ConfigMap], namespace: str, now: float) -> Finding:
    """Whether the trust bundle is published, its roots can vouch, and when the first of them ends."""
    if isinstance(found, Untold):
        return untold("bundle", found, f"get configmap {NAME} in {namespace}")
    if found is None:
        return wrong(
            "bundle",
            f"there is no ConfigMap {NAME} in {namespace}: no agent knows whom to believe, and none starts",
            f"The authority publishes it: kubectl -n {namespace} logs deployment/quietwire-authority",
        )
    try:
        roots = anchors.sort(x509.load_pem_x509_certificates(found.data.get("ca.crt", "").encode())).roots
    except ValueError as error:  # closes: what cannot be read vouches for nobody
        return _broken(f"ConfigMap {NAME}: ca.crt cannot be read: {error}", namespace)
    if not roots:
        return _broken(f"ConfigMap {NAME}: none of ca.crt's certificates is a root", namespace)
    ends = sorted(each.not_valid_after_utc.timestamp() for each in roots)
    living = [each for each in ends if each > now]
    young = [each for each in roots if each.not_valid_before_utc.timestamp() > now]
    if not living:
        return wrong(
            "bundle", f"every root has expired, the last at {_day(ends[-1])}: nothing connects", f"{ROTATE} --help"
        )
    if len(young) == len(roots):
        return wrong("bundle", "no root is valid yet", "Look at the clocks of the API server and of the authority")
    said = f"{counted(len(roots), 'root')}, the first ends {_day(living[0])}"
    if len(living) < len(ends):
        return warning(
            "bundle", f"{len(ends) - len(living)} of {len(ends)} roots have expired; {said}", "Take them out"
        )
    if nearness(ends[0], now) is not Nearness.FAR:
        return warning("bundle", f"{said}, in {_days(ends[0] - now)}", f"Rotate in time: {ROTATE}")
    return ok("bundle", said)


def _broken(said: str, namespace: str) -> Finding:
    return wrong("bundle", said, f"kubectl -n {namespace} delete configmap {NAME}: the authority writes it anew")


def issuer(found: One[ConfigMap], namespace: str, now: float) -> Finding:
    """When the certificate ends under which new SVIDs are signed, as the bundle document says it."""
    if isinstance(found, Untold):
        return untold("issuer", found, f"get configmap {NAME} in {namespace}")
    try:
        ends = float(json.loads(found.data["bundle.json"])["quietwire_issuer"]["not_after"]) if found else 0.0
    except (KeyError, TypeError, ValueError):  # is told as unknown
        ends = 0.0
    if not ends:
        return warning("issuer", "when it ends is not in the bundle", "quietwire authority status --kubernetes says it")
    match nearness(ends, now):
        case Nearness.FAR:
            return ok("issuer", f"ends {_day(ends)}")
        case Nearness.EXPIRED:
            return wrong("issuer", f"has expired at {_day(ends)}: nothing is signed", "quietwire authority status")
        case _:
            said = f"ends {_day(ends)}, in {_days(ends - now)}"
            return warning("issuer", said, "One of our own is renewed by itself; one that is given has to be replaced")


def webhook(kind: str, found: One[Configuration], wanted: Configuration, namespace: str, now: float) -> Finding:
    """Whether the API server asks our webhooks, believes them, and does without them only where it may."""
    check = "injection" if kind == MUTATING else "validation"
    if isinstance(found, Untold):
        return untold(check, found, f"get {kind.lower()}s.admissionregistration.k8s.io {wanted.metadata.name}")
    if found is None:
        without = "pods get no init container" if kind == MUTATING else "policy is not looked at when it is written"
        return wrong(
            check,
            f"there is no {kind} {wanted.metadata.name}: {without}",
            "Install it again, or set webhook.enabled=false and write init containers into manifests",
        )
    there = {each.name: each for each in found.webhooks}
    for each in wanted.webhooks:
        ours = there.get(each.name)
        if ours is None:
            return wrong(check, f"{kind} {wanted.metadata.name} has no webhook {each.name}", "Install it again")
        called = ours.client_config.service
        if called is None or (called.name, called.namespace) != ("quietwire-webhook", namespace):
            said = f"{each.name} calls another than Service {namespace}/quietwire-webhook"
            return wrong(check, said, "Install it again")
        if problem := _believed(check, each.name, ours.client_config.ca_bundle, now):
            return problem
        if ours.failure_policy != each.failure_policy:
            opens = ours.failure_policy == "Ignore"
            return warning(
                check,
                f"{each.name} has failurePolicy {ours.failure_policy or 'none'}, and is installed with "
                f"{each.failure_policy}: while no webhook answers, "
                + (
                    "what it would have changed or refused is let through"
                    if opens
                    else "what it is asked of is refused"
                ),
                "It may have been chosen (webhook.injectionFailurePolicy); otherwise install it again",
            )
    ends = max(_ends(there[each.name].client_config.ca_bundle) for each in wanted.webhooks)
    return ok(check, f"{names(each.name for each in wanted.webhooks)}: asked and believed, its CA ends {_day(ends)}")


def _believed(check: str, name: str, pem: bytes, now: float) -> Finding | None:
    logs = "The webhooks write it themselves: see their logs (deployment/quietwire-webhook)"
    if not pem:
        return wrong(check, f"{name} has no caBundle: the API server believes nobody there", logs)
    try:
        ends = _ends(pem)
    except ValueError as error:  # closes: the API server cannot read it either
        return wrong(check, f"{name}: its caBundle cannot be read: {error}", logs)
    match nearness(ends, now):
        case Nearness.FAR:
            return None
        case Nearness.EXPIRED:
            return wrong(check, f"{name}: every CA of its caBundle has expired, the last at {_day(ends)}", logs)
        case _:  # they are renewed at half of their life: that has failed for months
            return warning(
                check, f"{name}: the last CA of its caBundle ends {_day(ends)}, in {_days(ends - now)}", logs
            )


def _ends(pem: bytes) -> float:
    """When the last CA of a bundle ends. Raises ValueError where it is none."""
    return max(each.not_valid_after_utc.timestamp() for each in x509.load_pem_x509_certificates(pem))


def _day(posix: float) -> str:
    return time.strftime("%Y-%m-%d %H:%MZ", time.gmtime(posix))


def _days(seconds: float) -> str:
    return f"{seconds / 86400:.1f} days"
