"""Sizes of grids and tiles, on the host. Triton's own `cdiv` and `next_power_of_2` are made for kernels as well, and take 2 to 5 us a
call here: hundreds of them a block are a tenth of the host's time."""


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def power_of_2(n: int) -> int:
    """The next, n >= 1."""
    return 1 << (n - 1).bit_length()
