"""What is said beside a measurement: who measured, with what, and how old a child was."""

from phr.chart.plain import clip, joined, mapping, string
from phr.chart.results import Result
from phr.chart.vitals import GROWTH, Setting, setting
from phr.chart.whose import GROWN, Whose, age_words
from phr.fhir.record import OWN
from phr.views.frame import Context

_BY = {Setting.OWN: "Own reading, not by a clinic", Setting.CLINIC: "At a clinic"}


def setting_words(one: Result, context: Context) -> str:
    """Return who measured and with what, as far as somebody says it."""
    origin = context.origins.get(one.record.connection_id)
    said = Setting.OWN if origin and origin.kind == OWN else setting(one.record.document)
    device = string(mapping(one.record.document.get("device")).get("display"))
    return joined(_BY.get(said, ""), f"device: {clip(device, 60)}" if device else "")


def age_of(one: Result, person: Whose, code: str) -> str:
    """Return how old a child was when its growth was measured; "" for all else.

    `code` is the LOINC code of the measurement.
    """
    days = person.age(one.taken) if code in GROWTH else None
    return "" if days is None or days >= GROWN * 365.25 else f"at the age of {age_words(days)}"
