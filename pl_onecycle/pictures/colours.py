"""`Look`: the colours of all pictures, and how candidates are told apart by them.

The colours are those of Okabe and Ito, "Color Universal Design", 2008, which people with any colour vision can tell
apart.
"""

from dataclasses import dataclass

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73"),
    *("#0072B2", "#D55E00", "#CC79A7"),
)
# Between them and the background: what is measured but does not decide.
GREY, FAINT = "#7f7f7f", "#c8c8c8"

RAW, SMOOTH, TROUGH, CHOICE, MOMENTUM = GREY, BLUE, SKY, VERMILLION, GREEN
_OF_CANDIDATES = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, BLACK)


@dataclass(frozen=True)
class Look:
    """How one of several candidates looks.

    Attributes:
        color: Of its line and its point.
        linestyle: Of its line; solid as long as the colours last.
        fill: Of its point; white beyond that.
    """

    color: str
    linestyle: str
    fill: str


def look_of(index: int) -> Look:
    """Return how candidate number ``index`` looks; the first 14 differ.

    Example:
        >>> look_of(0).color, look_of(7).color, look_of(0).linestyle, look_of(7).linestyle
        ('#0072B2', '#0072B2', '-', '--')
    """
    color = _OF_CANDIDATES[index % len(_OF_CANDIDATES)]
    is_first = index < len(_OF_CANDIDATES)
    return Look(color, "-" if is_first else "--", color if is_first else "white")
