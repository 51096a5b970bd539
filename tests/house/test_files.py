"""What is committed: nothing of this machine, of a registry, or of third-party browser code."""

import re

from tests.house.look import ROOT, ours, place, texts

# Put together here so that this file does not name them itself.
HOSTS = [
    "pypi" + ".org",
    "python" + "hosted.org",
    "npm" + "js.org",
    "npm" + "js.com",
    "deb." + "debian.org",
    "yarn" + "pkg.com",
]
PATHS = [
    r"/wo" + r"rk/(?!flows)",
    r"/ro" + r"ot/",
    r"/tm" + r"p/hp\b",
    r"/opt/" + r"(?:pypi|wheels)",
]


def test_no_registry_host_is_named() -> None:
    wrong = [
        f"{place(path, number)} {host}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        for host in HOSTS
        if host in line
    ]
    assert not wrong


def test_no_path_of_somebodys_machine_is_named() -> None:
    pattern = re.compile(r"(?<![\w.}])(?:" + "|".join(PATHS) + ")")
    wrong = [
        f"{place(path, number)} {line.strip()[:80]}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert not wrong


def test_third_party_browser_code_is_not_committed() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in ours()
        if path.name.endswith((".min.js", ".min.css", ".woff2")) or "node_modules" in path.parts
    ]
    assert not wrong


def test_no_private_key_or_database_is_committed() -> None:
    marker = "-----BEGIN " + "(?:EC |RSA |ENCRYPTED )?PRIVATE KEY-----"
    wrong = [str(path) for path, text in texts() if re.search(marker, text)]
    wrong += [str(path) for path in ours() if path.suffix in {".db", ".sqlite", ".slots", ".key"}]
    assert not wrong


def test_nothing_large_is_committed() -> None:
    assert not [str(path) for path in ours() if path.stat().st_size > 512 * 1024]
