"""Parts of the sentences that people read in logs, warnings and errors."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one.

    Example:
        >>> counted(1, "parameter group"), counted(0, "optimizer")
        ('1 parameter group', '0 optimizers')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def in_a_line(error: BaseException) -> str:
    r"""Return the type of an exception and the first line of its message, as some end with whole tensors.

    Example:
        >>> in_a_line(ValueError("two\nlines")), in_a_line(KeyError())
        ('ValueError: two', 'KeyError')
    """
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def short(value: float) -> str:
    """Return a number as people read it: three digits of one that may have a fraction, all digits of an integer.

    Example:
        >>> short(0.0123456), short(4096)
        ('0.0123', '4096')
    """
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def rounded(value: float) -> str:
    """Return a number to two digits, and without an exponent where that is short.

    Example:
        >>> rounded(0.2344), rounded(18.75), rounded(1234.0)
        ('0.23', '19', '1200')
    """
    return f"{float(f'{value:.2g}'):g}"


def factor(before: float, after: float) -> str:
    """Return how many times as large a value is than before, in brackets; nothing where that is plain to see.

    Example:
        >>> factor(0.001, 0.0746), factor(0.1, 0.05), factor(0.9, 0.95), factor(0.0, 0.1)
        (' (×75)', ' (×0.5)', '', '')
    """
    if before <= 0 or after <= 0 or 0.5 < after / before < 2:
        return ""
    return f" (×{rounded(after / before)})"


def duration(seconds: float) -> str:
    """Return a time as people say it.

    Example:
        >>> duration(0.0004), duration(9.16), duration(75.0), duration(1000.0), duration(10000.0)
        ('0.01 s', '9.2 s', '75 s', '17 min', '2.8 h')
    """
    if seconds < 99.5:
        return f"{rounded(max(seconds, 0.01))} s"
    return f"{rounded(seconds / 60)} min" if seconds < 99.5 * 60 else f"{rounded(seconds / 3600)} h"


def change(before: float | None, after: float) -> str:
    """Return a value and the one before it, if there was one, with the factor between them where it matters.

    Example:
        >>> change(0.001, 0.0746), change(None, 0.1)
        ('0.001 → 0.0746 (×75)', '0.1')
    """
    return short(after) if before is None else f"{short(before)} → {short(after)}{factor(before, after)}"
