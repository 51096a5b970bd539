"""Things with exactly one owner: the clock, chance, the environment; and what tests may not do."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions

from tests.house.look import ROOT, imports, modules, place, tree

OWNERS = {  # what may be imported only there
    "secrets": {"phr.ids"},
    "uuid": {"phr.ids", "lighthouse"},  # there: names made from names (RFC 9562 §5.5)
    "random": {"phr.bench", "phr.demo", "phr.pull", "phr.connectors.rest"},  # jitter, no secrets
    "pickle": set(),
    "marshal": set(),
    "subprocess": {"phr.bench", "phr.demo", "phr.papers.apart", "phr.views.paper"},
    # Libraries whose errors and dangers one module knows.
    "httpx": {"phr.http"},
    "httpcore": {"phr.http"},
    "authlib": {"phr.oauth", "phr.sharing.authorization"},
    "joserfc": {"phr.jwt"},
    "fhir": {"phr.fhir"},
    "sqlcipher3": {"phr.store.database", "phr.bench"},
    "apscheduler": {"phr.jobs"},
    "argon2": {"phr.store.slots"},
    "nh3": {"phr.views"},
    "lxml": {"phr.papers.cda"},  # the one parser of XML, run in a child process only
    "xml": set(),
    "asn1crypto": {
        "phr.sharing.channels.bundles",
        "phr.sharing.channels.smime",
        "phr.sharing.channels.trust",
    },
    "aiosmtpd": {"phr.bench", "phr.listener"},
    "pypdf": {"phr.papers.readers"},
    "pydicom": {"phr.papers.dicom"},
    "dns": {"phr.sharing.channels.discovery"},
    "ldap3": {"phr.sharing.channels.discovery"},
    "pyhanko_certvalidator": {"phr.sharing.channels.trust"},
    "smtplib": {"phr.bench", "phr.sharing.channels.submission"},
    "imaplib": {"phr.sharing.channels.imap"},
}


def _belongs(name: str, owners: set[str]) -> bool:
    return any(name == owner or name.startswith(owner + ".") for owner in owners)


def test_chance_and_other_programs_have_one_owner() -> None:
    wrong = [
        f"{place(path, line)} imports {imported}"
        for name, path in modules().items()
        for imported, line in imports(path)
        if imported.split(".")[0] in OWNERS and not _belongs(name, OWNERS[imported.split(".")[0]])
    ]
    assert not wrong


def test_there_is_no_sql_in_the_web_room() -> None:
    wrong = []
    for name, path in modules().items():
        if not _belongs(name, {"phr.web"}):
            continue
        for node in ast.walk(tree(path)):
            listed = getattr(node, "names", ())  # of `global` they are bare texts
            named = [each.name for each in listed if isinstance(each, ast.alias)]
            module = getattr(node, "module", "") or ""
            # `Session` is the type of what `vault.read()` gives, and of helper's parameters.
            harmless = module == "sqlalchemy.orm" and named == ["Session"]
            if not harmless and any("sqlalchemy" in one for one in (module, *named)):
                wrong.append(f"{place(path, node.lineno)} imports from {module or named}")
            if isinstance(node, ast.Attribute) and node.attr == "exec_driver_sql":
                wrong.append(f"{place(path, node.lineno)} runs SQL")
    assert not wrong


def test_only_the_clock_asks_what_time_it_is() -> None:
    asking = {"now", "utcnow", "today", "fromtimestamp"}
    wrong = []
    for name, path in modules().items():
        if name in {"phr.clock", "lighthouse.clock"} or name.startswith("phr.bench"):
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                on = node.func.value
                owner = on.id if isinstance(on, ast.Name) else getattr(on, "attr", "")
                is_date = owner in {"datetime", "date"} and node.func.attr in asking
                if is_date or (owner == "time" and node.func.attr == "time"):
                    wrong.append(f"{place(path, node.lineno)} {owner}.{node.func.attr}()")
    assert not wrong


def test_only_the_settings_and_the_command_line_see_the_environment() -> None:
    allowed = {"phr.settings", "phr.cli", "phr.bench", "lighthouse.__main__"}
    wrong = [
        place(path, node.lineno)
        for name, path in modules().items()
        if not _belongs(name, allowed)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    ]
    assert not wrong


def test_everything_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        declared += extra
    known = {_normal(line) for line in declared}
    distributions = packages_distributions()
    wrong = set()
    for path in modules().values():
        for imported, line in imports(path):
            top = imported.split(".")[0]
            if top in sys.stdlib_module_names or top in {"phr", "lighthouse", "tests"}:
                continue
            names = {_normal(name) for name in distributions.get(top, [top])}
            if not names & known:
                wrong.add(f"{place(path, line)} imports {top}, which pyproject.toml does not name")
    assert not sorted(wrong)


def _normal(requirement: str) -> str:
    name = requirement
    for sign in "<>=!~[; ":
        name = name.split(sign)[0]
    return name.lower().replace("_", "-").replace(".", "-")


def _is_a_look_again(call: ast.Call) -> bool:
    """A short pause of a loop that waits for another process; no test waits for time to pass."""
    given = call.args[0] if call.args else None
    return isinstance(given, ast.Constant) and float(given.value) <= 0.2


def test_tests_neither_mock_nor_sleep() -> None:
    wrong = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        wrong += [
            f"{place(path, line)} imports {name}"
            for name, line in imports(path)
            if name.startswith("unittest.mock") or name in {"mock", "pytest_mock"}
        ]
        wrong += [
            f"{place(path, node.lineno)} sleeps"
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "sleep"
            and not _is_a_look_again(node)
            and "fakes" not in path.parts  # a fake may be slow on purpose
        ]
    assert not wrong
