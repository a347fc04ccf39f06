"""Arithmetic that several rooms need and that has no name in Python."""


def ceil_div(number: int, divisor: int) -> int:
    """The quotient rounded up, exact for integers of any size: how many groups of `divisor` hold `number` things.

    >>> ceil_div(10, 5), ceil_div(11, 5)
    (2, 3)
    """
    return -(-number // divisor)  # // rounds down, so the two signs turn it into rounding up
