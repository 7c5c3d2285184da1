"""Each module has a test module of its own, or the table says which test guards it, or why it needs none.

`agent/catalog/sources/files/links.py` is tested in `tests/catalog/sources/files/test_links.py`, `init/tables.py` in
`tests/init/test_tables.py`; where that got too long, also in `test_tables_<of what>.py`.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TYPED = "tests/cli/typed.py"
"""Verbs import their work when they are typed: a test that types them imports this."""

ELSEWHERE = {
    "agent/authority/ca.py": "tests/authority/test_pki.py",
    "agent/authority/control.py": "tests/authority/test_rotation.py",
    "agent/authority/directory.py": "tests/authority/test_issuer.py",
    "agent/authority/kubernetes/keeping.py": "tests/kubernetes/test_authority_store.py",
    "agent/authority/kubernetes/secrets.py": "tests/kubernetes/test_authority_store.py",
    "agent/authority/kubernetes/store.py": "tests/kubernetes/test_authority_store.py",
    "agent/authority/refusal.py": "tests/authority/test_service.py",
    "agent/authority/store.py": "tests/authority/store_contract.py",
    "agent/authority/token_review.py": "tests/kubernetes/test_attestation.py",
    "agent/capture/_conntrack.pyx": "tests/netns/test_source.py",
    "agent/capture/netns.py": "tests/netns/test_capture.py",
    "agent/capture/sources.py": "tests/netns/test_source.py",
    "agent/catalog/sources/kubernetes/kinds.py": "tests/catalog/sources/kubernetes/test_reading.py",
    "agent/catalog/sources/files/remembered.py": "tests/catalog/test_memory.py",
    "agent/cli/agent.py": "tests/cli/test_up_flags.py",
    "agent/cli/agent_flags.py": "tests/cli/test_up_flags.py",
    "agent/cli/app.py": "tests/cli/test_help.py",
    "agent/cli/authority/flags.py": "tests/cli/test_authority_cli.py",
    "agent/cli/authority/looking.py": "tests/cli/test_authority_cli.py",
    "agent/cli/authority/mint.py": "tests/cli/test_authority_cli.py",
    "agent/cli/authority/revocation.py": "tests/cli/test_authority_cli.py",
    "agent/cli/authority/rotation.py": "tests/cli/test_authority_cli.py",
    "agent/cli/authority/run.py": "tests/cli/test_authority_cli.py",
    "agent/cli/authority/token.py": "tests/cli/test_authority_cli.py",
    "agent/cli/demo/play.py": "tests/cli/test_demo.py",
    "agent/cli/demo/story.py": "tests/cli/test_demo.py",
    "agent/cli/work/authority/bundle.py": "tests/cli/test_authority_cli.py",
    "agent/cli/work/authority/looking.py": "tests/cli/test_authority_cli.py",
    "agent/cli/work/authority/minting.py": "tests/cli/test_authority_cli.py",
    "agent/cli/work/authority/opened.py": "tests/cli/test_authority_cli.py",
    "agent/cli/work/authority/revocation.py": "tests/cli/test_authority_cli.py",
    "agent/cli/work/authority/rotation.py": "tests/cli/test_authority_cli.py",
    "agent/cli/work/authority/running.py": "tests/cli/test_authority_cli.py",
    "agent/cli/work/authority/tokens.py": "tests/cli/test_authority_cli.py",
    "agent/cli/work/authz.py": "tests/cli/test_authz.py",
    "agent/cli/work/check/run.py": "tests/cli/test_check.py",
    "agent/cli/work/cluster.py": "tests/cli/test_up_flags.py",
    "agent/cli/work/cni.py": "tests/cli/test_cni.py",
    "agent/cli/work/exits.py": "tests/cli/test_authz.py",
    "agent/cli/work/install.py": "tests/cli/test_install.py",
    "agent/cli/work/installing.py": "tests/cli/test_install.py",
    "agent/cli/work/issuing.py": "tests/cli/test_authority_cli.py",
    "agent/cli/work/node.py": "tests/cli/test_up_flags.py",
    "agent/cli/work/webhook.py": "tests/cli/test_webhook.py",
    "agent/link/affinity_memory.py": "tests/proxy/test_affinity.py",
    "agent/manifests/parts.py": "tests/catalog/test_incumbents_and_faults.py",
    "agent/node/config.py": "tests/node/test_identity_source.py",
    "agent/node/remembered.py": "tests/netns/test_remembered.py",
    "agent/objects/decode.py": "tests/catalog/test_standing.py",
    "agent/policy/index.py": "tests/policy/test_changes.py",
    "agent/policy/matcher.py": "tests/policy/test_decision_cost.py",
    "agent/policy/model.py": "tests/policy/test_authorize.py",
    "init/batch.py": "tests/netns/test_init.py",
    "init/engine.py": "tests/netns/test_init.py",
    "init/kernel.py": "tests/netns/test_init.py",
    "init/legacy.py": "tests/init/test_model.py",
    "init/nft.py": "tests/init/test_model.py",
    "init/xtables.py": "tests/netns/test_init.py",
}
"""Modules that one test guards together with others."""

NOTHING_TO_TEST = {
    "agent/catalog/snapshot.py": "values without a method: what exists, and what is different",
    "agent/catalog/source.py": "a protocol",
    "agent/cli/work/check/seen.py": "values; their few properties say in one word what a field says",
    "agent/identity/provider.py": "protocols, an error with its code, and values without a method",
    "agent/link/messages.py": "values without a method: what goes over the channel",
    "agent/node/facts.py": "a value without a method",
    "agent/objects/model.py": "values; their few properties put names together",
    "agent/objects/policy.py": "values; their few properties put names together",
    "agent/outcome.py": "an enum",
    "agent/proxy/refusal.py": "an error with its outcome",
    "init/constants.py": "constants",
}


def modules() -> dict[str, Path]:
    """By its path, where the tests of each module lie, and how their files' names begin: `tests/tls/test_openssl`."""
    found = {}
    for path in sorted(path for top in ("agent", "init") for path in (ROOT / top).rglob("*.py*")):
        if path.suffix in {".py", ".pyx"} and path.stem not in {"__init__", "__main__"}:
            module = path.relative_to(ROOT)
            room = module.relative_to("agent") if module.parts[0] == "agent" else module
            found[str(module)] = ROOT / "tests" / room.parent / f"test_{path.stem.lstrip('_')}"
    return found


def problems(modules: dict[str, Path], elsewhere: dict[str, str], nothing: dict[str, str]) -> list[str]:
    """What is wrong with the tests of these modules, each with the module's name."""
    found = []
    mirrored = set[Path]()
    for path in {path for stem in modules.values() for path in stem.parent.glob("test_*.py")}:
        of = [stem for stem in modules.values() if stem.parent == path.parent and _is_of(path.stem, stem.name)]
        mirrored.update(sorted(of, key=lambda stem: len(stem.name))[-1:])  # test_contexts_chain may have its own module
    for module, stem in modules.items():
        tables = [name for name, table in (("ELSEWHERE", elsewhere), ("NOTHING_TO_TEST", nothing)) if module in table]
        if stem in mirrored and tables:
            found.append(f"{module} has a test module of its own: take it out of {' and '.join(tables)}")
        elif len(tables) > 1:
            found.append(f"{module} is in both tables")
        elif stem not in mirrored and not tables:
            found.append(
                f"{module} has no {stem.relative_to(ROOT)}.py, and tests/test_mirror.py does not say what guards it"
            )
    found += [
        f"{module} is in a table, and there is no such module"
        for module in {**elsewhere, **nothing}
        if module not in modules
    ]
    for module, guard in elsewhere.items():
        if not (ROOT / guard).is_file():
            found.append(f"{module} is guarded by {guard}, which does not exist")
        elif module in modules and not guard.startswith("tests/netns/") and not _guards(ROOT / guard, module):
            found.append(f"{module} is guarded by {guard}, which does not import it")
    return found


def _is_of(test: str, stem: str) -> bool:
    return test == stem or test.startswith(f"{stem}_")


def _guards(test: Path, module: str) -> bool:
    imported = imports(test)
    return dotted(module) in imported or (module.startswith("agent/cli/") and dotted(TYPED) in imported)


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere, and every name that it takes from one."""
    found = set[str]()
    for each in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(each, ast.Import):
            found |= {alias.name for alias in each.names}
        elif isinstance(each, ast.ImportFrom) and each.module is not None:
            found |= {each.module, *(f"{each.module}.{alias.name}" for alias in each.names)}
    return found


def dotted(path: str) -> str:
    """A module as it is imported."""
    return path.rpartition(".")[0].replace("/", ".")


def test_every_module_has_a_test_module_or_its_line_in_a_table() -> None:
    assert problems(modules(), ELSEWHERE, NOTHING_TO_TEST) == []


LINKS, STATUS = "agent/catalog/sources/files/links.py", "agent/node/status.py"


@pytest.mark.parametrize(
    ("module", "elsewhere", "nothing", "words"),
    [
        ("agent/node/new.py", {}, {}, "agent/node/new.py has no tests/node/test_new.py, and"),
        (STATUS, {STATUS: "tests/node/test_status.py"}, {}, "has a test module of its own: take it out of ELSEWHERE"),
        (STATUS, {}, {STATUS: "a value"}, "has a test module of its own: take it out of NOTHING_TO_TEST"),
        (LINKS, {"agent/gone.py": "tests/test_mirror.py"}, {}, "agent/gone.py is in a table, and there is no such"),
        ("init/new.py", {"init/new.py": "tests/test_gone.py"}, {}, "by tests/test_gone.py, which does not exist"),
        ("init/new.py", {"init/new.py": "tests/test_mirror.py"}, {}, "tests/test_mirror.py, which does not import it"),
        ("init/new.py", {"init/new.py": "tests/netns/test_init.py"}, {"init/new.py": "a"}, "is in both tables"),
    ],
)
def test_what_is_wrong_is_said_with_the_modules_name(
    module: str, elsewhere: dict[str, str], nothing: dict[str, str], words: str
) -> None:
    name = Path(module).stem
    room = Path(module).relative_to("agent") if module.startswith("agent/") else Path(module)
    (said,) = problems({module: ROOT / "tests" / room.parent / f"test_{name}"}, elsewhere, nothing)
    assert words in said


def test_a_test_of_one_module_is_not_taken_for_anothers_whose_name_begins_alike() -> None:
    """`test_inbound_set_up.py` alone would be no test of `inbound`, where there is an `inbound_set_up`."""
    stems = {
        f"agent/proxy/{name}.py": ROOT / "tests/proxy" / f"test_{name}" for name in ("inbound_set", "inbound_set_up")
    }
    (said,) = problems(stems, {}, {})
    assert said.startswith("agent/proxy/inbound_set.py has no tests/proxy/test_inbound_set.py, and")
