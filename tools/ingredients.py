"""Check phr/chart/data/ingredients.txt, and list what could be added to it.

    python tools/ingredients.py [FOLDER]

Without a folder: the table is read, and every contradiction inside it is named. With a folder of
FHIR (JSON, NDJSON) or C-CDA (XML) documents, or listings (TSV: system, code, name): each code of
the table that stands there with a display must not be called by the name of another substance;
which codes nothing there confirms is told, and the most frequent codes that the table lacks are
listed with their displays, for a person to look up and decide. Nothing is written: the table is
made by hand. Ends with 1 when something contradicts.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from phr.chart import ingredients, traits

SYSTEMS = {ingredients.RXNORM, ingredients.UNII, ingredients.SNOMED}
MEDICAL = {ingredients.RXNORM, ingredients.UNII}  # whose unknown codes are worth a look
_TAG = re.compile(r"<(?:\w+:)?(?:code|value|translation)\b[^>]*>")
_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')
SHOWN = 40

Said = tuple[str, str, str]  # system, code, display


def main(folder: str | None) -> int:
    """Check, say what was found, and return the exit status."""
    table = ingredients.table()
    print(f"{len(set().union(*table.names.values()))} ingredients", end=", ")
    print(f"{len(table.names)} names, {len(table.codes)} codes: no contradiction inside")
    if folder is None:
        return 0
    told = Counter(said for path in sorted(Path(folder).rglob("*")) for said in codings(path))
    wrong = [(said, means) for said in told if (means := contradiction(said))]
    for (system, code, display), means in wrong:
        print(f"CONTRADICTS {system}|{code}: {display!r} is {set(means)}, not what the table says")
    known = sum((system, code) in table.codes for system, code, _ in told)
    print(f"{known} published codings agree" if not wrong else f"{len(wrong)} contradict")
    proven = {said[:2] for said in told if confirms(said)}
    alone = sorted(
        f"{system.rpartition('/')[2]} {code}" for system, code in {*table.codes} - proven
    )
    print(f"{len(proven)} codes are confirmed; not by this folder: {', '.join(alone) or 'none'}")
    missing = [
        (count, said)
        for said, count in told.most_common()
        if said[0] in MEDICAL and said[:2] not in table.codes
    ]
    for count, (system, code, display) in missing[:SHOWN]:
        guess = ", ".join(ingredients.told(display).ingredients) or "?"
        print(f"{count:6} {system.rpartition('/')[2]} {code} {display} -> {guess}")
    return 1 if wrong else 0


def contradiction(said: Said) -> ingredients.Ingredients:
    """Return what a display means where that is not what its code means in the table."""
    system, code, display = said
    means = ingredients.table().codes.get((system, code))
    told = ingredients.told(display)
    named = told.ingredients if told.sure else ingredients.allergen(display)[0]
    if not means or not named or means == named or named <= ingredients.table().classes:
        return frozenset()  # "Penicillin" for penicillin G: loose, not wrong
    return named


def confirms(said: Said) -> bool:
    """Say whether a display names just the substances that its code means in the table."""
    system, code, display = said
    means = ingredients.table().codes.get((system, code))
    return means in (ingredients.told(display).ingredients, ingredients.allergen(display)[0])


def codings(path: Path) -> Iterator[Said]:
    """Yield every coding with a display of the three vocabularies in one file."""
    if not path.is_file() or path.suffix not in {".json", ".ndjson", ".phr", ".tsv", ".xml"}:
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    found = {".xml": _of_xml, ".tsv": _of_tsv}.get(path.suffix, _of_json)(text)
    for system, code, display in found:
        name = traits.system(system)
        if name in SYSTEMS and code and display:
            yield name, code, display


def _of_xml(text: str) -> Iterator[Said]:
    for tag in _TAG.findall(text):
        has = dict(_ATTRIBUTE.findall(tag))
        yield has.get("codeSystem", ""), has.get("code", ""), has.get("displayName", "")


def _of_tsv(text: str) -> Iterator[Said]:
    for line in text.splitlines():
        system, _, rest = line.partition("\t")
        code, _, name = rest.partition("\t")
        yield system, code, name


def _of_json(text: str) -> Iterator[Said]:
    try:
        waiting: list[Any] = [json.loads(text)]
    except ValueError:
        waiting = [_line(line) for line in text.splitlines()]
    while waiting:
        found = waiting.pop()
        if isinstance(found, list):
            waiting.extend(found)
        elif isinstance(found, dict):
            waiting.extend(found.values())
            said = tuple(found.get(name) for name in ("system", "code", "display"))
            if all(isinstance(one, str) for one in said):
                yield said


def _line(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
