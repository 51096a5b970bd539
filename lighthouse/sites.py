"""Which site an address belongs to: its registrable domain, by the public suffix list."""

from functools import lru_cache
from urllib.parse import urlsplit

from publicsuffixlist import PublicSuffixList


@lru_cache(maxsize=1)
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()


@lru_cache(maxsize=16384)
def site_of(url: str) -> str:
    """Return the registrable domain of an address (private suffixes count), or its host."""
    host = (urlsplit(url).hostname or "").rstrip(".").lower()
    return _suffixes().privatesuffix(host) or host


def same_site(one: str, other: str) -> bool:
    """Say whether two addresses belong to one registrable domain."""
    return bool(site_of(one)) and site_of(one) == site_of(other)
