"""The patient's word on two records. How it is kept is `phr.store.entries`' business."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Decision:
    """Two records (by local id) are about the same thing, or are not."""

    one: str
    other: str
    same: bool
