"""What answers while the rest of an application is still being loaded: never something else."""

import re
import subprocess
import sys

from phr.web import app as web
from phr.web import early
from phr.web.application import Application, home_application
from tests.cast import HOME, Browser, Cast, sign_in


def an_early(cast: Cast) -> tuple[early.Early, list[Application]]:
    """Return the pages as a start has them, and what was loaded behind them."""
    loaded: list[Application] = []

    def load() -> Application:
        loaded.append(web.create_home_app(cast.appliance, doorkeeper))
        return loaded[-1]

    doorkeeper = cast.home.state.doorkeeper
    return early.Early(home_application(early.FIRST_PAGES, doorkeeper), load), loaded


def test_first_rows_are_rows_of_the_route_table() -> None:
    assert all(any(row is each for each in web.HOME) for row in early.FIRST_PAGES)
    assert all(any(row is each for each in web.PUBLIC) for row in early.FIRST_DOORS)


def test_no_first_row_answers_what_another_row_of_the_table_would(cast: Cast) -> None:
    first, _ = an_early(cast)
    wrong = []
    for handler in web.HOME:
        is_first = any(handler is each for each in early.FIRST_PAGES)
        for path in handler.paths:
            for method in handler.http_methods:
                asked = {"path": re.sub(r"{[^}]*}", "1", path), "method": str(method)}
                if first.is_first(asked) is not is_first:  # type: ignore[arg-type]
                    wrong.append((asked, handler))
    assert not wrong


def test_a_page_that_is_not_loaded_yet_is_waited_for(cast: Cast) -> None:
    app, loaded = an_early(cast)
    with Browser(app, HOME) as browser:
        assert browser.get("/healthz").status_code == 200
        sign_in(browser, "Ada")
        assert browser.get(f"/p/{cast.patients['Ada']}/timeline").status_code == 200
        assert not loaded
        assert browser.get("/account").status_code == 200
        assert len(loaded) == 1
        assert browser.get("/nothing/of/that/name").status_code == 404
        assert len(loaded) == 1


def test_a_start_loads_nothing_that_its_first_pages_do_not_need() -> None:
    code = (
        "import sys; from phr import memory; memory.leave_out(); import phr.cli.serve;"
        "print(*(name for name in sys.argv[1:] if name in sys.modules))"
    )
    behind = (
        *("phr.web.app", "phr.web.doors", "phr.jobs", "phr.pull", "phr.push", "phr.cli.commands"),
        *("phr.tls", "cryptography.x509", "authlib", "joserfc", "httpx", "apscheduler", "segno"),
        *("pyotp", "fhir", "lxml", "pypdf", "nh3"),
    )
    found = subprocess.run(
        [sys.executable, "-c", code, *behind], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == []


def test_an_idle_appliance_loads_nothing_that_only_some_pages_need() -> None:
    code = (
        "import sys; from phr import memory; memory.leave_out(); import phr.cli.serve, phr.web.app,"
        " phr.jobs, phr.cli.commands;"
        "print(*(name for name in sys.argv[1:] if name in sys.modules))"
    )
    at_use = (
        *("segno", "nh3", "phr.tls", "cryptography.x509", "asn1crypto", "dns", "pypdf", "lxml"),
        *("httpx", "authlib", "joserfc", "pydantic", "fhir", "phr.demo"),
    )
    found = subprocess.run(
        [sys.executable, "-c", code, *at_use], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == []
