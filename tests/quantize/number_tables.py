"""The formats' numbers from the definition of their bits, and rounding in exact arithmetic."""

from collections.abc import Mapping
from fractions import Fraction


def decode(code: int, exponent_bits: int, mantissa_bits: int, bias: int) -> Fraction:
    """Return the number of a sign, exponent and mantissa; 0 in the exponent means subnormal."""
    mantissa = code & (2**mantissa_bits - 1)
    exponent = code >> mantissa_bits & (2**exponent_bits - 1)
    sign = -1 if code >> (mantissa_bits + exponent_bits) else 1
    share = Fraction(mantissa, 2**mantissa_bits)
    if exponent == 0:
        return sign * share * Fraction(2) ** (1 - bias)
    return sign * (1 + share) * Fraction(2) ** (exponent - bias)


#: Every code of E2M1, and those of E4M3 but for its two NaN.
E2M1 = {code: decode(code, 2, 1, 1) for code in range(16)}
E4M3 = {code: decode(code, 4, 3, 7) for code in range(256) if code & 0x7F != 0x7F}


def nearest_code(value: Fraction, table: Mapping[int, Fraction]) -> int:
    """Return the code of the nearest number with the value's sign; of two, the even code."""
    sign_bit = (max(table) + 1) // 2 if len(table) == 16 else 128
    codes = [code for code in table if (code >= sign_bit) == (value < 0)]
    return min(codes, key=lambda code: (abs(table[code] - value), code % 2))
