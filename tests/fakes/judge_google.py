"""A judge that we did not write: google-fhir-r4, in a process of its own (it warns a lot).

Reads NDJSON from standard input; prints one JSON line of issues for each resource.
"""

import json
import re
import sys
import warnings
from importlib import import_module
from typing import Any


def main() -> None:
    """Judge every line; a Bundle and what is in it each by itself (nested decimals trip it)."""
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        issues = [issue for one in _apart(json.loads(line), line) for issue in _issues(*one)]
        sys.stdout.write(json.dumps(issues) + "\n")


def _apart(resource: dict[str, Any], line: str) -> list[tuple[str, str]]:
    """Return (type, JSON) of a resource, or of a Bundle and of each resource in it."""
    if resource["resourceType"] != "Bundle":
        return [(resource["resourceType"], line)]
    inside = [each.pop("resource") for each in resource.get("entry", ()) if "resource" in each]
    return [("Bundle", json.dumps(resource))] + [(r["resourceType"], json.dumps(r)) for r in inside]


def _issues(type_: str, body: str) -> list[str]:
    from google.fhir.core.fhir_errors import InvalidFhirError
    from google.fhir.r4 import json_format

    try:
        json_format.json_fhir_string_to_proto(body, _class_of(type_), validate=True)
    except (InvalidFhirError, ValueError) as error:
        return [f"{type_}: {error}"]
    return []


def _class_of(type_: str) -> type:
    name = re.sub("(?<!^)(?=[A-Z])", "_", type_).lower()
    if type_ == "Bundle":
        name = "bundle_and_contained_resource"
    module = import_module(f"google.fhir.r4.proto.core.resources.{name}_pb2")
    found: type = getattr(module, type_)
    return found


if __name__ == "__main__":
    main()
