"""From an empty folder to a record on screen, to a doctor's view, to a revoke that blanks it."""

import pytest
from playwright.sync_api import expect

from tests.e2e import journey
from tests.e2e.house import running

WIDTHS = [1280, 360]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
def test_newcomer_reaches_a_record_shares_it_and_takes_it_back(browser, house, width, script):
    context = browser.new_context(
        viewport={"width": width, "height": 800}, java_script_enabled=script
    )
    walk = journey.new_walk(context, house.home)

    journey.set_up(walk, house.code)
    patient = journey.try_demo(walk)
    assert walk.sent <= 6

    link, code = journey.make_link(walk, patient)
    elsewhere = browser.new_context(
        viewport={"width": width, "height": 800}, java_script_enabled=script
    )
    doctor = elsewhere.new_page()
    journey.open_link(doctor, link, code)
    for word in (
        "Penicillin",
        "Levothyroxine",
        "Hypothyroidism",
        "Not listed does not mean absent",
    ):
        expect(doctor.locator("body")).to_contain_text(word)
    assert "depress" not in doctor.inner_text("body").lower()  # sensitive: off until ticked

    journey.stop(walk, patient)
    if script:
        expect(doctor.locator("body")).not_to_contain_text("Penicillin", timeout=5000)
    doctor.reload()
    expect(doctor.locator("body")).not_to_contain_text("Penicillin")
    expect(doctor.locator("body")).not_to_contain_text(journey.PERSON)

    walk.page.goto(f"{house.home}/p/{patient}/activity")
    expect(walk.page.locator("main")).to_contain_text("Dr. Chen")
    assert walk.problems == []
    context.close()
    elsewhere.close()


def test_demo_and_all_it_brought_go_with_one_button(browser, house):
    context = browser.new_context()
    walk = journey.new_walk(context, house.home)
    journey.set_up(walk, house.code)
    journey.try_demo(walk)

    walk.page.goto(house.home + "/admin")
    walk.send('form[action$="/demo/remove"] button')

    walk.page.goto(house.home + "/household")
    assert "Demo" not in walk.text
    assert len(list((house.data / "vaults").glob("*.db"))) == 1
    context.close()


def test_record_opens_by_itself_after_a_power_cut_and_stays_sealed_where_chosen(browser, tmp_path):
    for opens, ready in (("itself", 200), ("sealed", 503)):
        data = tmp_path / opens
        with running(data) as house:
            context = browser.new_context()
            journey.set_up(journey.new_walk(context, house.home), house.code, opens=opens)
            house.kill()
        with running(data) as again:
            assert context.request.get(again.home + "/readyz").status == ready
            page = context.new_page()
            page.goto(again.home + "/")
            if opens == "sealed":
                expect(page.locator("main")).to_contain_text("sealed", ignore_case=True)
        context.close()
