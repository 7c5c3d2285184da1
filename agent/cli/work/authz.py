"""What `authz` does: a question answered, cases tried, manifests checked; and how it is all said."""

import http.client
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlencode

import msgspec

from agent.catalog.fronts import overlooked
from agent.catalog.index import CatalogIndex
from agent.catalog.join import Assembly
from agent.catalog.snapshot import Catalog
from agent.catalog.sources.files.directory import Loaded, conflicts, load
from agent.catalog.sources.files.templates import templates
from agent.cli.authz import PolicyFlags
from agent.cli.work.exits import EXIT_FAILED, EXIT_USAGE, fail
from agent.flags import ConfigError, HostPort
from agent.identity.spiffe import SpiffeIdError, check_trust_domain
from agent.manifests.fault import Fault, Remark
from agent.objects.field import FaultError
from agent.policy.cases import Result, parse
from agent.policy.cases import run as run_cases
from agent.policy.check import Finding, declared, findings, probed
from agent.policy.explain import Explainer, Explanation, Question, QuestionError
from agent.policy.index import PolicyIndex, PolicySettings, cluster_matches
from agent.telemetry.logs import printable
from init.constants import INBOUND_PORT, OUTBOUND_PORT

ANSWER_SECONDS = 10.0


def explain(question: Question, manifests: Path | None, flags: PolicyFlags, admin: str, *, as_json: bool) -> None:
    """Answers a question, from manifests or by the running agent."""
    try:
        if manifests is None:
            answer = _ask(question, HostPort.parse(admin, "--admin"))
        else:
            answer = _explainer(_read_directory(manifests)[1], flags).explain(question)
    except (ConfigError, QuestionError) as error:
        fail(printable(str(error)), EXIT_USAGE)
    if as_json:
        _print_json(answer)
    else:
        _say(f"{answer.verdict}: {question}", *_lines(answer))


def run_tests(file: Path, manifests: Path, flags: PolicyFlags, *, allow_faults: bool, as_json: bool) -> NoReturn:
    """Tries the cases of a file on some manifests, says which differ, and ends with the status."""
    try:
        cases = parse(file.read_bytes())
    except OSError as error:
        fail(f"{file}: {error.strerror}", EXIT_USAGE)
    except FaultError as error:
        fail(printable(f"{file}:{error.line}: {error.reason}"), EXIT_USAGE)
    try:
        loaded, catalog = _read_directory(manifests)
        results = run_cases(cases, _explainer(catalog, flags))
    except ConfigError as error:
        fail(printable(str(error)), EXIT_USAGE)
    failed = [result for result in results if not result.passed]
    if as_json:
        _print_json(
            {
                "cases": len(results),
                "failed": [_result(file, result) for result in failed],
                "faults": [_fault(each) for each in loaded.faults],
            }
        )
    else:
        for result in failed:
            _say(*_failure(file, result))
        faults = f", {len(loaded.faults)} faults in the manifests" if loaded.faults else ""
        _say(f"{len(results)} cases, {len(failed)} differ{faults}")
    refused = bool(loaded.faults) and not allow_faults
    if refused:
        _warn(
            f"{manifests} has manifests that cannot be used: the cases were tried with what an agent that starts would "
            f"have in force instead. Mend them, or accept that with --allow-faults"
        )
    sys.exit(EXIT_FAILED if failed or refused else 0)


def check(files: tuple[Path, ...], *, as_json: bool) -> NoReturn:
    """Says what is wrong with manifests, and ends with the status."""
    if not files:
        fail("which files? For example: quietwire authz check policy.yaml", EXIT_USAGE)
    loaded, catalog = _read(files)
    odd = (
        *findings(catalog.pods, catalog.policies),
        *probed(catalog.pods, catalog.policies),
        *(Finding(key, message) for key, message in overlooked(catalog)),
        *declared(catalog.pods, (OUTBOUND_PORT, INBOUND_PORT)),
    )
    warned = sorted((*(_remark(loaded, each) for each in odd), *loaded.remarks))
    if as_json:
        _print_json(
            {
                "faults": [_fault(each) for each in loaded.faults],
                "warnings": [_warning(each) for each in warned],
            }
        )
    else:
        for fault in loaded.faults:
            what = f"{fault.object}: " if fault.object else ""
            _say(f"{fault.origin}: error: {what}{fault.reason}")
        for each in warned:
            _say(f"{each.origin}: warning: {each.object}: {each.message}")
        objects = len(loaded.origins)
        _say(f"{objects} objects, {len(loaded.faults)} errors, {len(warned)} warnings")
    sys.exit(EXIT_FAILED if loaded.faults else 0)


def _read_directory(directory: Path) -> tuple[Loaded, Catalog]:
    """What a directory says, and its faults said. Raises ConfigError where there is none."""
    if not directory.is_dir():
        raise ConfigError(f"--manifests {directory} is no directory")
    loaded, catalog = _read([directory])
    for fault in loaded.faults:
        _warn(str(fault))
    return loaded, catalog


def _read(paths: Iterable[Path]) -> tuple[Loaded, Catalog]:
    """What some files say, with every fault, and the catalog of it: with a pod for each controller."""
    files = tuple(paths)
    loaded = load(files)
    made = templates(files, loaded.objects)
    assembly = Assembly()
    change = assembly.apply({**loaded.objects, **made.pods})
    disputed = conflicts(assembly, lambda: loaded.origins)
    faults = tuple(sorted((*loaded.faults, *made.faults, *disputed)))
    catalog = Catalog()
    if change is not None:
        catalog = Catalog(change.version, change.pods, change.services, change.policies, change.nodes)
    remarks = tuple(sorted((*loaded.remarks, *made.remarks)))
    return msgspec.structs.replace(loaded, faults=faults, remarks=remarks), catalog


def _explainer(catalog: Catalog, flags: PolicyFlags) -> Explainer:
    return Explainer(CatalogIndex(catalog), PolicyIndex(catalog, _settings(flags)), egress_mode=flags.egress_mode)


def _settings(flags: PolicyFlags) -> PolicySettings:
    """What flags say about policy, checked. Raises ConfigError."""
    networks = tuple(part.strip() for part in flags.cluster_networks.split(",") if part.strip())
    try:
        check_trust_domain(flags.trust_domain)
    except SpiffeIdError as error:
        raise ConfigError(f"--trust-domain {flags.trust_domain!r}: {error.reason}") from None
    try:
        cluster_matches(networks)
    except ValueError as error:
        raise ConfigError(f"--cluster-networks: {error}") from None
    return PolicySettings(flags.trust_domain, flags.default_inbound_policy, networks)


def _ask(question: Question, admin: HostPort) -> Explanation:
    """Asks the running agent. Raises QuestionError with its words, or ends where there is none."""
    parameters = {name: str(value) for name, value in msgspec.to_builtins(question).items() if value is not None}
    connection = http.client.HTTPConnection(admin.host, admin.port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", f"/authz?{urlencode(parameters)}")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        _no_agent(admin, error)
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise QuestionError(body.decode("utf-8", "replace").strip())
    return msgspec.json.decode(body, type=Explanation)


def _no_agent(admin: HostPort, error: Exception) -> NoReturn:
    fail(
        f"no agent answers on {admin} ({error}): name its --admin, or give --manifests to answer without one",
        EXIT_USAGE,
    )


def _say(*lines: str) -> None:
    """Prints lines of what strangers may have written: no control character of theirs reaches the terminal."""
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))


def _warn(line: str) -> None:
    sys.stderr.write(f"quietwire: {printable(line)}\n")


def _print_json(value: Any) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def _lines(answer: Explanation) -> Iterable[str]:
    if answer.decided_by:
        yield f"server: {answer.decided_by}"
    if answer.authorization:
        yield f"authorization: {answer.authorization}"
    yield f"reason: {answer.reason}"
    if answer.considered:
        yield "considered, in this order, and what each lacked:"
        for each in answer.considered:
            yield f"  {each.authorization}: {each.lacked}"


def _failure(file: Path, result: Result) -> Iterable[str]:
    case = result.case
    came = result.problem if result.explanation is None else str(result.explanation.verdict)
    yield f"{file}:{case.line}: {case.question}: expected {case.expect}, and it is {came}"
    if case.because:
        yield f"  because: {case.because}"
    if result.explanation is not None:
        for line in _lines(result.explanation):
            yield f"  {line}"


def _result(file: Path, result: Result) -> dict[str, Any]:
    return {
        "file": str(file),
        "line": result.case.line,
        "case": result.case.question,
        "expect": result.case.expect,
        "because": result.case.because,
        "problem": result.problem,
        "explanation": result.explanation,
    }


def _fault(fault: Fault) -> dict[str, Any]:
    return {**fault.origin.fields, "object": fault.object, "reason": fault.reason}


def _warning(remark: Remark) -> dict[str, Any]:
    return {**remark.origin.fields, "object": remark.object, "message": remark.message}


def _remark(loaded: Loaded, finding: Finding) -> Remark:
    return Remark(loaded.origins[finding.object], str(finding.object), finding.message)
