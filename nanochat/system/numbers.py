"""Arithmetic that several packages need and that Python's library lacks."""


def ceil_div(number: int, divisor: int) -> int:
    """The quotient rounded up, exact for integers of any size: the number of groups of `divisor` for `number` items.

    >>> ceil_div(10, 5), ceil_div(11, 5)
    (2, 3)
    """
    return -(-number // divisor)  # // rounds down, so the two signs turn it into rounding up
