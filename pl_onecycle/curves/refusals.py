"""`Refusal`: the answer of a reader that finds none."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """Why curves support no suggestion or choice.

    Attributes:
        reason: Half a sentence for people.
    """

    reason: str
