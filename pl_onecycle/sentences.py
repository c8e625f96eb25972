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
