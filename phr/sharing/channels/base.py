"""The contract of a channel: a way to carry a parcel out. A channel never sees the store.

What is in a parcel decides `phr.sharing.package`; when and whether it goes, `phr.push`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a parcel; `chunks` can be read once and may raise Ended at any piece."""

    name: str
    media_type: str
    chunks: Iterator[bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is carried: `id` is the delivery's, the same at each attempt (for idempotent peers).

    `point` surrounds the one step that cannot be taken back; entering it raises Ended when it is
    over. It takes what breaks that step off at once, called from another thread. `number` of
    `total` parcels that were planned together.
    """

    id: str
    parts: Sequence[Part]
    point: Callable[[Callable[[], None]], AbstractContextManager[Any]] = nullcontext
    number: int = 1
    total: int = 1


@dataclass(frozen=True, slots=True)
class Receipt:
    """What came back: plain facts for the delivery's page and the audit log, no health data."""

    facts: Mapping[str, Any]


class Channel(ABC):
    """A way out. `repeatable`: sending the same parcel twice has the effect of sending it once."""

    kind: ClassVar[str]
    title: ClassVar[str]
    address_label: ClassVar[str]
    repeatable: ClassVar[bool]

    @abstractmethod
    def problems(self, address: str) -> list[str]:
        """Return what is wrong with an address, as sentences; an empty list where it is good."""

    def reference(self, parcel_id: str) -> str | None:  # noqa: ARG002 - not every channel has one
        """Return the id by which what comes back will name a parcel; None: nothing comes back."""
        return None

    @abstractmethod
    def send(self, parcel: Parcel, address: str) -> Receipt:
        """Carry a parcel, or raise DeliveryFailed; Ended, raised by a part, passes through.

        Then nothing half-sent may be left behind where the channel can prevent it.
        """
