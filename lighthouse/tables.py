"""The tables of the catalogue (SQLAlchemy Core: SQLite by default, PostgreSQL by URL).

Nothing is ever deleted from them. Text columns are never NULL: "" means that nobody said it.
"""

from sqlalchemy import Column, ForeignKey, Index, Integer, MetaData, Table, Text

metadata = MetaData()


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


organization = Table(
    "organization",
    metadata,
    Column("id", Text, primary_key=True),
    _text("name"),
    _text("kind"),  # SMART user-access category, or "national": one door for a whole country
    _text("parent"),  # name of what it is part of, as published
    _text("part_of"),  # the same as an id, where a list said so by reference
    _text("street"),
    _text("city"),
    _text("state"),
    _text("zip"),
    _text("country"),
    _text("website"),
    _text("about"),  # a sentence for people, where there is no endpoint to connect to
    _text("hidden"),  # why it is not found by search ("test entry"), or ""
)
alias = Table(
    "alias",
    metadata,
    Column("organization", Text, ForeignKey("organization.id"), primary_key=True),
    Column("text", Text, primary_key=True),
    _text("kind"),  # also, former, other (NPPES), claimed (by a third party; not searched)
    _text("origin"),
    _text("as_of"),
)
location = Table(  # further places of an organisation; the first one is its own row's
    "location",
    metadata,
    Column("organization", Text, ForeignKey("organization.id"), primary_key=True),
    Column("street", Text, primary_key=True),
    Column("city", Text, primary_key=True),
    Column("state", Text, primary_key=True),
    Column("zip", Text, primary_key=True),
    _text("country"),
    _text("origin"),
    _text("confidence"),  # stated, claimed
)
identifier = Table(
    "identifier",
    metadata,
    Column("organization", Text, ForeignKey("organization.id"), primary_key=True),
    Column("system", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    _text("origin"),
    _text("confidence"),  # stated, claimed (by a third party), invalid, deactivated
)
Index("identifier_value", identifier.c.system, identifier.c.value)
endpoint = Table(
    "endpoint",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    _text("url"),  # as published: `aud` may have to equal it byte for byte
    _text("vendor"),
    _text("fhir_version"),
    _text("authorize"),
    _text("token"),
    _text("origin"),  # of the address; whose word each field is stands in `statement`
    _text("as_of"),
)
statement = Table(  # what each list says about an endpoint, field by field
    "statement",
    metadata,
    Column("endpoint", Text, ForeignKey("endpoint.id"), primary_key=True),
    Column("field", Text, primary_key=True),  # url, vendor, fhir_version, authorize, token
    Column("value", Text, primary_key=True),
    Column("origin", Text, primary_key=True),
    _text("as_of"),
    _text("standing"),  # see lighthouse.statements
    sqlite_with_rowid=False,  # the key is nearly the whole row: once is enough
)
probe = Table(  # what the last visit of the crawler found at an endpoint
    "probe",
    metadata,
    Column("endpoint", Text, ForeignKey("endpoint.id"), primary_key=True),
    _text("probed"),  # ISO date
    _text("last_ok"),  # ISO date of the last good answer
    _text("answer"),  # alive, not FHIR, no answer, refused
    _text("detail"),
    _text("fhir_version"),
    _text("software"),
    _text("authorize"),
    _text("token"),
    _text("registration"),  # RFC 7591
    _text("pkce"),  # code_challenge_methods_supported, space separated
    _text("token_auth"),  # token_endpoint_auth_methods_supported, space separated
    _text("brands"),  # the site's own brand bundle (SMART: to be preferred)
)
listing = Table(  # in which list, and until which edition of it, an endpoint was named
    "listing",
    metadata,
    Column("endpoint", Text, ForeignKey("endpoint.id"), primary_key=True),
    Column("list", Text, primary_key=True),
    _text("first"),
    _text("last"),
)
edition = Table(  # the newest edition of each list that was taken in
    "edition",
    metadata,
    Column("list", Text, primary_key=True),
    _text("newest"),
)
forward = Table(  # an endpoint that moved: a stored connection follows after its owner agreed
    "forward",
    metadata,
    Column("old", Text, ForeignKey("endpoint.id"), primary_key=True),
    Column("new", Text, ForeignKey("endpoint.id"), nullable=False),
    _text("as_of"),
    _text("reason"),
)
door = Table(  # organisation -> endpoint, grouped by portal
    "door",
    metadata,
    Column("organization", Text, ForeignKey("organization.id"), primary_key=True),
    Column("endpoint", Text, ForeignKey("endpoint.id"), primary_key=True),
    _text("portal"),
    _text("portal_url"),
    _text("portal_about"),  # who may use it (adults, children, ...), as published
)
Index("door_endpoint", door.c.endpoint)
provenance = Table(
    "provenance",
    metadata,
    Column("organization", Text, ForeignKey("organization.id"), primary_key=True),
    Column("field", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("origin", Text, primary_key=True),
    _text("as_of"),
    Column("evidence", Integer, nullable=False),
)
anchors = Table(
    "anchor",
    metadata,
    Column("anchor", Text, primary_key=True),
    Column("organization", Text, ForeignKey("organization.id"), nullable=False),
)
refused = Table(  # addresses that must never be requested, with the reason
    "refused",
    metadata,
    Column("url", Text, primary_key=True),
    _text("reason"),
    _text("origin"),
)
defect = Table(
    "defect",
    metadata,
    Column("class", Text, primary_key=True),
    Column("rows", Integer, nullable=False),
)
question = Table(
    "question",
    metadata,
    Column("one", Text, primary_key=True),
    Column("other", Text, primary_key=True),
)
