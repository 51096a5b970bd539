"""The corpus of the benchmarks: carebundle people, made one person's record of any size.

Deterministic: the same seed and size give the same bytes. Ids and dates are shifted from one
round to the next; each resource gets an id and meta as a FHIR server would add them.
"""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

SEED = 20261122
PATIENT = "homeport-bench-patient"
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def base(seed: int = SEED, people: int = 60) -> list[dict[str, Any]]:
    """Return the resources of generated people as one patient's, references made relative."""
    import carebundle  # noqa: PLC0415  a test extra, needed for the benchmark only

    profiles = ("type2_diabetes", "hypertension", "ckd_stage3", "anaemia", "healthy")
    made: list[dict[str, Any]] = []
    for index in range(people):
        profile = profiles[index % len(profiles)]
        bundle = carebundle.generate_bundle(profile=profile, seed=seed, index=index)
        history = carebundle.generate_history(
            profile="hypertension", seed=seed + 1, index=index, visits=6
        )
        for each in (bundle, history):
            made += _flattened(orjson.loads(carebundle.to_json(each)))
    return made


def _flattened(bundle: dict[str, Any]) -> Iterator[dict[str, Any]]:
    names = {}
    for entry in bundle["entry"]:
        resource = entry["resource"]
        own = entry["fullUrl"].removeprefix("urn:uuid:")
        kind = resource["resourceType"]
        names[entry["fullUrl"]] = f"Patient/{PATIENT}" if kind == "Patient" else f"{kind}/{own}"
    for entry in bundle["entry"]:
        resource = entry["resource"]
        if resource["resourceType"] == "Patient":
            continue
        own = entry["fullUrl"].removeprefix("urn:uuid:")
        body = {"resourceType": resource.pop("resourceType"), "id": own}
        body["meta"] = {"versionId": "1", "lastUpdated": ""} | resource.pop("meta", {})
        yield _renamed(body | resource, names)


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _renamed(inner, names) for name, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


def bodies(count: int, seed: int = SEED, people: int = 60) -> Iterator[bytes]:
    """Yield `count` resources as received bytes: each round with other ids, dates and values."""
    pattern = [orjson.dumps(resource).decode() for resource in base(seed, people)]
    moving = [_holes(text) for text in pattern]
    chance = random.Random(seed)
    made = 0
    for round_ in range(count // len(pattern) + 1):
        offset = timedelta(days=chance.randrange(9000))
        for parts in moving:
            if made == count:
                return
            stamp = _EPOCH + timedelta(seconds=made * 37, milliseconds=made % 1000)
            yield _filled(parts, round_, offset, stamp)
            made += 1


def _holes(text: str) -> list[str]:
    """Cut a resource where ids, dates and the time of the last update stand."""
    import re  # noqa: PLC0415

    return re.split(
        r'("lastUpdated":"")|(\d{4}-\d\d-\d\d)(?=["T])|([0-9a-f]{8}-[0-9a-f]{4})(?=-[0-9a-f-]{22})',
        text,
    )


def _filled(parts: list[str], round_: int, offset: timedelta, stamp: datetime) -> bytes:
    out = []
    for place in range(0, len(parts) - 1, 4):
        text, updated, date, own = parts[place : place + 4]
        out.append(text)
        if updated:
            out.append(f'"lastUpdated":"{stamp:%Y-%m-%dT%H:%M:%S}.{stamp.microsecond // 1000:03}Z"')
        elif date:
            out.append(f"{datetime.fromisoformat(date) - offset:%Y-%m-%d}")
        else:
            first = int(own[:8], 16) ^ (round_ * 0x9E3779B1 & 0xFFFFFFFF)
            out.append(f"{first:08x}{own[8:]}")
    return "".join((*out, parts[-1])).encode()


def bundle(entries: list[bytes], next_url: str | None = None, total: int = 0) -> bytes:
    """Return a searchset page of raw resources."""
    links = orjson.dumps([{"relation": "next", "url": next_url}] if next_url else [])
    inside = b",".join(b'{"resource":%s,"search":{"mode":"match"}}' % body for body in entries)
    return b'{"resourceType":"Bundle","type":"searchset","total":%d,"link":%s,"entry":[%s]}' % (
        total,
        links,
        inside,
    )
