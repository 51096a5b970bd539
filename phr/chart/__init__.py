"""Records in, what a person reads out: pure functions that know no store and never raise.

Each module answers one question about a Sequence[Record] with frozen values. Not here: HTML
(`phr.views`), queries (`phr.store`), decisions about who may see what (`phr.sharing`).
"""
