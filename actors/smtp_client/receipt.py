"""What became of a submission, for each recipient."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Outcome", "Receipt"]


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What became of the message for one recipient.

    Args:
        address: the recipient.
        status: ``accepted``: the server has taken the responsibility. ``refused``: it has not, by a reply, or would not
            by what it offers. ``unsent``: the session ended before it could. ``unknown``: the message went out with
            its final dot, and no reply came; it may have been taken, and a second try may deliver it twice (RFC
            5321, 4.1.1.4 and RFC 1047).
        code: the code of the reply that decided; 0 where none did.
        enhanced: its enhanced status code (RFC 3463), as ``5.1.1``; empty where there is none.
        text: its words, or the reason; one line.
    """

    address: str
    status: Literal["accepted", "refused", "unsent", "unknown"]
    code: int
    enhanced: str
    text: str

    @property
    def is_temporary(self) -> bool:
        """Whether the same submission may be tried again later, without the danger that it is delivered twice."""
        return self.status == "unsent" or (self.status == "refused" and self.code // 100 == 4)

    def __str__(self) -> str:
        codes = (str(self.code or ""), self.enhanced, self.text)
        return f"{self.address}: {self.status}: {' '.join(filter(None, codes))}"


class Receipt(msgspec.Struct, frozen=True):
    """What became of a submission.

    Args:
        outcomes: one for each recipient, in the order of the submission.
        error: why the session ended before each of them was decided by a reply, as ``tls: ...`` or ``timeout: ...``;
            empty where it didn't.
        tls: version and cipher where the message was, or would have been, encrypted; empty for plaintext.
    """

    outcomes: tuple[Outcome, ...]
    error: str
    tls: str

    @property
    def is_accepted(self) -> bool:
        """Whether the message was accepted for every recipient."""
        return all(outcome.status == "accepted" for outcome in self.outcomes)

    def addresses(self, status: str) -> tuple[str, ...]:
        """The recipients of one status, as ``receipt.addresses("refused")``."""
        return tuple(outcome.address for outcome in self.outcomes if outcome.status == status)

    def __str__(self) -> str:
        return "\n".join(map(str, self.outcomes))
