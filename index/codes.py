"""Packed binary codes; the only module that knows the order of bits.

Bit j of a code (dimension j of the hasher's output) is bit 7 - (j mod 8) of byte j // 8, that is NumPy's
`packbits` with its default "big" order. Hexadecimal text shows the bytes in their order, so the first
character holds bits 0 to 3 with bit 0 as its most significant one.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.errors import BadCodes

CodeArray = NDArray[np.uint8]
"""uint8 (n, bits/8): one packed code a row."""

MIN_BITS, MAX_BITS = 16, 256
_QUERY_BLOCK_BYTES = 1 << 24  # bytes of xor results held at once by `hamming`


def check_bits(bits: object) -> int:
    """Return `bits` when it is a width that the project knows; raise BadCodes otherwise."""
    if isinstance(bits, bool) or not isinstance(bits, int) or bits % 8 or not MIN_BITS <= bits <= MAX_BITS:
        raise BadCodes(f"bits: wanted a multiple of 8 from {MIN_BITS} to {MAX_BITS}, got {bits!r}")
    return bits


def check_codes(codes: object, bits: int) -> CodeArray:
    """Return `codes` as a C-contiguous uint8 (n, bits/8) array; raise BadCodes when it is not one.

    Nothing is converted but the memory layout: a wrong dtype is an error, because a cast would hide bits.
    """
    if not isinstance(codes, np.ndarray) or codes.dtype != np.uint8:
        got = getattr(codes, "dtype", type(codes).__name__)
        raise BadCodes(f"codes: wanted a NumPy array of uint8, got {got}")
    if codes.ndim != 2 or codes.shape[1] != bits // 8:
        raise BadCodes(f"codes: wanted shape (n, {bits // 8}) for {bits} bits, got {codes.shape}")
    contiguous: CodeArray = np.ascontiguousarray(codes)
    return contiguous


def pack(bits: NDArray[np.bool_]) -> CodeArray:
    """Pack bool (n, K) to uint8 (n, K/8). Raises BadCodes on another dtype, shape or width."""
    if bits.dtype != np.bool_ or bits.ndim != 2:
        raise BadCodes(f"bits: wanted a bool array (n, K), got {bits.dtype} {bits.shape}")
    check_bits(bits.shape[1])
    return np.packbits(bits, axis=1)


def unpack(codes: CodeArray, bits: int) -> NDArray[np.bool_]:
    """Unpack uint8 (n, bits/8) to bool (n, bits). Raises BadCodes."""
    return np.unpackbits(check_codes(codes, check_bits(bits)), axis=1).view(np.bool_)


def to_hex(code: NDArray[np.uint8]) -> str:
    """Return one packed code, uint8 (bits/8,), as lower-case hexadecimal text. Raises BadCodes."""
    if code.dtype != np.uint8 or code.ndim != 1:
        raise BadCodes(f"code: wanted one uint8 row, got {code.dtype} {code.shape}")
    return code.tobytes().hex()


def from_hex(text: str, bits: int) -> NDArray[np.uint8]:
    """Return the packed code, uint8 (bits/8,), that `to_hex` wrote. Raises BadCodes.

    Only the digits count: the spaces that `bytes.fromhex` would skip are refused.
    """
    digits = check_bits(bits) // 4
    if len(text) != digits or not text.isascii() or not text.isalnum():
        raise BadCodes(f"code: wanted {digits} hexadecimal digits for {bits} bits, got {text[:80]!r}")
    try:
        return np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    except ValueError as error:
        raise BadCodes(f"code: wanted {digits} hexadecimal digits, got {text[:80]!r}") from error


def words(codes: CodeArray) -> NDArray[Any]:
    """View packed codes as the widest unsigned words that fit, uint (n, bits/8/itemsize).

    Counting bits word by word is several times as fast as byte by byte, and the sum does not care for
    the machine's byte order.
    """
    for itemsize in (8, 4, 2):
        if codes.shape[1] % itemsize == 0:
            return np.ascontiguousarray(codes).view(np.dtype(f"u{itemsize}"))
    return codes


def hamming(queries: CodeArray, codes: CodeArray) -> NDArray[np.int32]:
    """Hamming distances in bits, int32 (q, n), of uint8 (q, B) to uint8 (n, B). Raises BadCodes.

    Memory beside the result stays below about 32 MB, because queries are taken one by one and codes in
    blocks.
    """
    if queries.ndim != 2 or codes.ndim != 2 or queries.shape[1] != codes.shape[1]:
        raise BadCodes(f"codes: wanted the same width twice, got {queries.shape} and {codes.shape}")
    left, right = (
        words(check_codes(queries, queries.shape[1] * 8)),
        words(check_codes(codes, codes.shape[1] * 8)),
    )
    out = np.empty((len(left), len(right)), dtype=np.int32)
    block = max(1, _QUERY_BLOCK_BYTES // max(1, codes.shape[1]))
    for start in range(0, len(right), block):
        part = right[start : start + block]
        for row, query in enumerate(left):
            counts = np.bitwise_count(part ^ query)
            target = out[row, start : start + block]
            if counts.shape[1] == 1:
                target[:] = counts[:, 0]
            else:
                np.sum(counts, axis=1, dtype=np.int32, out=target)
    return out
