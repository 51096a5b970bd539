"""Every error of our own, as one tree.

Foreign exceptions are translated at one boundary per library.

PhrError
├── InvalidInput            what was typed or sent cannot be taken; nothing was changed
│   └── SettingsError       the configuration is wrong; all problems are listed at once
├── NotFound                absent, or not yours: the two are never told apart
├── Conflict                it changed meanwhile, exists already, or another holds it
│   └── DataLocked          another process holds the data folder
├── NotSignedIn             no session
├── TokenRefused            a bearer token is absent, unknown, expired or revoked
├── WrongSecret             password, code, kit or key does not open it
│   └── TotpNeeded          the password was right; the six digits are missing
├── TooManyTries            a limit was reached; `after` says when to try again
├── StepUpNeeded            the password (or second factor) must be given again first
├── Denied                  policy said no; `reason` is for the audit log
│   └── ScopeTooSmall       the token stands, but not for this interaction
├── Ended                   a link, grant or session that was live once and is no more
├── OutOfMemory             this step needs more than there is; the rest goes on
├── VaultError
│   ├── Sealed              no key in memory: a member must sign in
│   ├── NewerSchema         written by a newer program; the file was not touched
│   └── Damaged             an integrity check failed
├── NetError                an outgoing connection
│   ├── AddressRefused      the address guard said no, before any packet
│   ├── AnswerRefused       too large, too slow, compressed unasked, redirected
│   └── Unreachable         DNS, TCP or TLS failed, or no answer in time
├── ConnectorError          a remote we pull from
│   ├── NeedsReauthorisation  the person must sign in there again
│   ├── WrongPatient        somebody else came back than the pinned patient
│   ├── TryLater            rate limit or outage; `after` in seconds
│   ├── NotOffered          refused for this kind of record; the rest goes on
│   └── RemoteBroken        an answer outside the standard
├── DeliveryFailed          a channel could not deliver; `permanent` decides about retries
│   └── DeliveryUncertain   handed over without an answer: it may have gone, and is not repeated
├── MailboxFailed           mail could not be fetched from a provider; it stays there
└── TrustError              certificate, signature or token not acceptable
    └── MessageRefused      a mail does not decrypt or verify; which of the two is never told
"""

from datetime import datetime
from typing import ClassVar

from phr.told import Fault, Told


class PhrError(Exception):
    """Base of all. `sentence` is for people: plain words, no health data, no secrets.

    `told` is the same with the faults it tells of, for whoever keeps them (`phr.told`).
    """

    sentence: str = "Something went wrong. Nothing was lost."
    tells: ClassVar[Fault | None] = None  # the fault that every sentence of this class tells of

    def __init__(self, sentence: str | None = None) -> None:
        """Take the sentence for people; without one the class's own is used."""
        told = sentence or self.sentence
        if self.tells and not isinstance(told, Told):
            told = Told(told, self.tells)
        self.told, self.sentence = told, str(told)
        super().__init__(self.sentence)


class InvalidInput(PhrError):
    """What was typed or sent cannot be taken."""

    sentence = "That could not be understood. Nothing was changed."


class SettingsError(InvalidInput):
    """The configuration is wrong; the sentence lists every problem."""


class NotFound(PhrError):
    """Absent, or not yours."""

    sentence = "There is nothing here, or it is not yours to see."


class Conflict(PhrError):
    """It changed meanwhile, exists already, or another holds it."""

    sentence = "This was changed in the meantime. Reload the page and try again."


class DataLocked(Conflict):
    """Another process holds the data folder."""

    sentence = "Another Homeport process is already using this data folder."


class NotSignedIn(PhrError):
    """No session, or it has ended."""

    sentence = "Please sign in."


class TokenRefused(PhrError):
    """A bearer token is not there (`absent`), or it is unknown, expired or revoked."""

    sentence = "This needs a valid access token."

    def __init__(self, *, absent: bool = False) -> None:
        """Say whether there was none at all: RFC 6750 §3.1 names no error then."""
        super().__init__()
        self.absent = absent


class WrongSecret(PhrError):
    """A password, code, kit or key does not open what it should."""

    sentence = "That name and password do not fit together."


class TotpNeeded(WrongSecret):
    """The password was right, and the second factor is still to be given."""

    sentence = "Please add the six digits that your authenticator app shows now."


class TooManyTries(PhrError):
    """A limit was reached; `after` is when the next try is allowed (None: never)."""

    sentence = "Too many tries. Please wait before the next one."

    def __init__(self, sentence: str | None = None, *, after: datetime | None = None) -> None:
        """Take the sentence and the instant from which a new try is allowed."""
        super().__init__(sentence)
        self.after = after


class StepUpNeeded(PhrError):
    """The password (or second factor) must be given again before this step."""

    sentence = "Please confirm that it is you."


class Denied(PhrError):
    """Policy said no. `reason` goes to the audit log, the sentence to people."""

    sentence = "This is not permitted."

    def __init__(self, reason: str = "not permitted", sentence: str | None = None) -> None:
        """Take the reason (for the audit log) and the sentence (for people)."""
        super().__init__(sentence)
        self.reason = reason


class ScopeTooSmall(Denied):
    """The token stands, but its scopes do not cover this interaction."""

    sentence = "The scopes of this token do not cover that."


class Ended(PhrError):
    """A link, grant or session that was live once and is no more."""

    sentence = "This link has ended. Ask the person who sent it for a new one."


class OutOfMemory(PhrError):
    """More memory would be needed than the machine, or its limit, gives."""

    sentence = (
        "There is not enough memory for this step. It was not stored; what was stored before is"
        " safe."
    )


class VaultError(PhrError):
    """A person's encrypted store cannot be used as it is."""


class Sealed(VaultError):
    """No key in memory: a member must sign in."""

    sentence = "This record is sealed. It opens when a member signs in."


class NewerSchema(VaultError):
    """Written by a newer program; the file was not touched."""

    sentence = "A newer Homeport wrote this record. Please update this one. Nothing was changed."


class Damaged(VaultError):
    """An integrity check failed."""

    sentence = "This record's file is damaged. Nothing was changed; restore a backup to go on."


class NetError(PhrError):
    """An outgoing connection failed."""

    sentence: str = Told("The other server could not be reached.", Fault.UNREACHABLE)


class AddressRefused(NetError):
    """The address guard refused before any packet was sent."""

    sentence = (
        "This address is not allowed: it points into a private network or is not plain https."
    )


class AnswerRefused(NetError):
    """Too large, too slow, compressed without being asked, or redirected."""

    sentence = (
        "The other server's answer was refused because it was too large, too slow or malformed."
    )


class Unreachable(NetError):
    """DNS, TCP or TLS failed, or no answer came in time."""


class ConnectorError(PhrError):
    """A remote we pull from did not do as hoped."""


class NeedsReauthorisation(ConnectorError):
    """The person must sign in at the hospital again."""

    sentence = "The hospital wants you to sign in again. What was fetched before is kept."
    tells = Fault.SIGN_IN


class WrongPatient(ConnectorError):
    """Somebody else came back than the patient this connection is pinned to."""

    sentence = (
        "The hospital answered for a different person. Nothing was fetched and nothing was mixed."
    )


class TryLater(ConnectorError):
    """Rate limit or outage; `after` is in seconds."""

    sentence: str = Told("The hospital asked us to come back later.", Fault.THROTTLED)

    def __init__(self, sentence: str | None = None, *, after: float = 60.0) -> None:
        """Take the sentence and the wait in seconds."""
        super().__init__(sentence)
        self.after = after


class NotOffered(ConnectorError):
    """This kind of record was refused; the rest goes on."""

    sentence: str = Told(
        "The hospital does not offer this kind of record through its interface.", Fault.NOT_THERE
    )


class RemoteBroken(ConnectorError):
    """An answer outside the standard."""

    sentence: str = Told(
        "The hospital's server gave an answer that could not be read.", Fault.UNREADABLE
    )


class DeliveryFailed(PhrError):
    """A channel could not deliver; when `permanent` it is not tried again."""

    sentence = "It could not be delivered."

    def __init__(self, sentence: str | None = None, *, permanent: bool = False) -> None:
        """Take the sentence and whether another try is pointless."""
        super().__init__(sentence)
        self.permanent = permanent


class DeliveryUncertain(DeliveryFailed):
    """The last word was sent and no answer came."""

    sentence = "The connection broke just as it was handed over. It may have been sent."


class MailboxFailed(PhrError):
    """A provider's mailbox could not be read; what is in it stays there."""

    sentence = "The mailbox could not be read. What is in it stays there."


class TrustError(PhrError):
    """A certificate, signature or token is not acceptable."""

    sentence = "This could not be trusted: its signature or certificate is not acceptable."


class MessageRefused(TrustError):
    """A mail does not decrypt, or no signature covers it; one error for all, on purpose."""

    sentence = "This message could not be opened, or its signature does not hold."
