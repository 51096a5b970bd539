"""What `test_kill_first_steps` kills: people at their first steps, through the pages they use.

Trials and acknowledgements are those of `kill_child`.
"""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

from phr.appliance import Appliance
from phr.settings import Settings
from phr.store import restore, slots
from phr.store.house import House
from phr.store.vault import Vaults
from phr.web.app import create_home_app
from tests.cast import HOME, Browser, csrf_in, password_of, sign_in
from tests.fixtures_store import CHEAP
from tests.integration.kill_child import Acks, Trial, obey

Ready = Callable[[], None]


def hold_kit(browser: Browser, page: str, target: str) -> str:
    """Type the two groups back that the page asks for; return the kit."""
    shown = browser.get(page).text
    groups = re.findall(r"<code>(\w+)</code>", shown)
    asked = re.findall(r'name="group(\d)"', shown)
    form = {f"group{number}": groups[int(number) - 1] for number in asked}
    answer = browser.post(target, data=form | {"csrf": csrf_in(shown)})
    assert answer.status_code == 303, answer.text
    return "-".join(groups)


def claim(browser: Browser, code: str) -> None:
    """The first form of an empty box."""
    password = password_of("Ada")
    form = {"code": code, "name": "Ada", "password": password, "again": password, "whose": "me"}
    answer = browser.submit("/setup", form, page="/setup")
    assert answer.headers.get("location") == "/setup/kit", answer.text


def setting_up(trial: Trial, ready: Ready, ack: Acks) -> None:
    """Code, account, kit, how it opens."""
    appliance = Appliance.open(Settings(data=Path(trial["data"])))
    code = appliance.new_setup_code()
    assert code
    with Browser(create_home_app(appliance), HOME) as browser:
        ready()
        claim(browser, code)
        ack("claimed")
        ack(f"kit {hold_kit(browser, '/setup/kit', '/setup/kit')}")
        browser.submit("/setup/opening", {"opens": "itself"}, page="/setup/opening")
        ack("opening")


def joining(trial: Trial, ready: Ready, ack: Acks) -> None:
    """An invited person makes an account, answers and confirms a kit."""
    appliance = Appliance.open(Settings(data=Path(trial["data"])))
    with Browser(create_home_app(appliance), HOME) as browser:
        ready()
        password = password_of("Ben")
        form = {"code": trial["code"], "name": "Ben", "password": password, "again": password}
        assert browser.submit("/join", form, page="/join").headers["location"] == "/join/kit"
        ack("answered")
        ack(f"kit {hold_kit(browser, '/join/kit', '/join/kit')}")


def renewing_the_kit(trial: Trial, ready: Ready, ack: Acks) -> None:
    """One new kit after the other, each confirmed."""
    appliance = Appliance.open(Settings(data=Path(trial["data"])))
    with Browser(create_home_app(appliance), HOME) as browser:
        sign_in(browser, "Ada")
        ready()
        while True:
            browser.submit("/account/kit", {"password": password_of("Ada")})
            ack(f"kit {hold_kit(browser, '/account/kit', '/account/kit/held')}")


def restoring(trial: Trial, ready: Ready, ack: Acks) -> None:
    """A record comes to a machine that has nothing. `at` kills at one moment instead of any."""
    if trial.get("at") == "before it is opened":
        Vaults.open_restored = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign,assignment,return-value]
    house = House.open(Path(trial["data"]))
    vaults = Vaults(house)
    ready()
    restore.restore(house, vaults, Path(trial["backup"]), password=password_of("Ada"))
    ack("restored")


STEPS: dict[str, Callable[[Trial, Ready, Acks], None]] = {
    "setup": setting_up,
    "join": joining,
    "kit": renewing_the_kit,
    "new machine": restoring,
}


def child(trial: Trial, ready: int) -> None:
    slots.calibrated = lambda _seconds=0.35: CHEAP  # type: ignore[assignment]
    STEPS[trial["work"]](trial, lambda: os.write(ready, b"!") and None, Acks(trial["acks"]))
    signal.pause()


if __name__ == "__main__":
    obey(child)
