"""Random numbers that are the same on every machine, backend and release.

Element `i` of stream `(seed, stream)` is the 32-bit word `i % 8` (little-endian order) of the block
`philox4x64-10(counter=i // 8, key=(seed, stream))` of Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1,
2, 3". Everything else is exact or correctly rounded IEEE arithmetic on that word. It uses no library
distributions, which NumPy may change, and no `exp`, `log` or `sqrt` of the C library, which differ between
processors. So every function here is a pure function of its arguments, and any window `[start, start + count)`
can be drawn without the elements before it.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from keras_slots._checks import check_choice, check_integer, check_seed

BANK_STREAM = 0
SCORE_STREAM = 1
VALUE_BANK_STREAM = 3  # 2 is free
START_STREAM = 4
STRATA_STREAM = 5

Float32Array = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]

_WORDS_PER_BLOCK = 8
_CHUNK = 2**15  # elements per chunk: its temporary arrays fit into the cache
_THREADED_FROM = 2**19  # with fewer elements, starting threads costs more than it gains
_MAX_THREADS = 8

# Standard deviation of the standard normal truncated to [-2, 2]; Keras divides by the same number.
_TRUNCATED_STDDEV = 0.87962566103423978
# The quantile of the standard normal truncated to [-2, 2] is the odd function
#   x(t) = Phi^-1(1/2 + t (Phi(2) - 1/2)) = t P(t^2) / Q(t^2),   -1 < t < 1.
# P and Q: minimax fit of x(t) on 4000 Chebyshev nodes of t^2 in [0, 1] by Lawson-weighted linear
# least squares against scipy.special.ndtri. Largest absolute error over all 2^24 inputs: 1.5e-9.
_QUANTILE_P = (
    1.1962880337002204,
    -3.3922830094802627,
    3.5608779313962153,
    -1.6615431721671727,
    0.31450800748164864,
    -0.01377182059877555,
)
_QUANTILE_Q = (
    1.0,
    -3.0741910682352245,
    3.590377483968184,
    -1.9518323382480098,
    0.47596295891769586,
    -0.03827905123521575,
)


def draw_seed() -> int:
    """A fresh 63-bit seed from Python's global generator, which `keras.utils.set_random_seed` seeds."""
    return random.getrandbits(63)


def derive_seed(seed: int, name: str) -> int:
    """A 63-bit seed for the part `name` of an object with seed `seed`."""
    digest = hashlib.sha256(f"{check_seed(seed)}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def raw_words(seed: int, stream: int, count: int, start: int = 0) -> Words:
    """The 32-bit words `[start, start + count)` of the stream `(seed, stream)`, uint32."""
    seed, stream = check_seed(seed), check_seed(stream, "stream")
    count, start = check_integer(count, "count", 2**48), check_seed(start, "start")
    block, skip = divmod(start, _WORDS_PER_BLOCK)
    num_blocks = -(-(skip + count) // _WORDS_PER_BLOCK)
    # NumPy increments the counter before it generates the first block.
    counter = np.array([block - 1, 0, 0, 0] if block else [2**64 - 1] * 4, "uint64")
    generator = np.random.Philox(key=np.array([seed, stream], "uint64"), counter=counter)
    raw = generator.random_raw(4 * num_blocks)
    words = raw.astype("<u8", copy=False).view("<u4").astype(np.uint32, copy=False)
    return words[skip : skip + count]


def draw(kind: str, seed: int, stream: int, count: int, start: int = 0, scale: float = 1.0) -> Float32Array:
    """The elements `[start, start + count)` of a stream of random values, times `float32(scale)`, float32.

    An element is x, made from the word w of `raw_words` and from `u = (w >> 8) * 2**-24`, exact in float32:

    - `"uniform"` on `[-1, 1)`: `x = 2 u - 1`, exact.
    - `"positive_uniform"` on `[0, 1)`: `x = u`.
    - `"truncated_normal"`, the standard normal truncated to `[-2, 2]`, with standard deviation 0.8796:
      `x = Phi^-1(1/2 + t (Phi(2) - 1/2))` with `t = 2 u - 1 + 2**-24`, by a rational function in float64 (absolute
      error below 2e-9) that is rounded once to float32.
    - `"signed_constant"`: `x = +1` if the highest bit of `w` is set, else `-1`.

    Example:

    >>> sorted({float(x) for x in draw("signed_constant", 0, BANK_STREAM, 100, scale=0.5)})
    [-0.5, 0.5]
    """
    fill = KINDS[check_choice(kind, "kind", tuple(KINDS))].fill
    start, factor = check_seed(start, "start"), np.float32(scale)
    out = np.empty(check_integer(count, "count", 2**48), dtype=np.float32)

    def draw_chunk(low: int) -> None:
        part = out[low : low + _CHUNK]
        fill(raw_words(seed, stream, part.size, start + low), part)
        if factor != 1:
            np.multiply(part, factor, out=part)

    chunks = range(0, out.size, _CHUNK)
    if out.size < _THREADED_FROM:
        for low in chunks:
            draw_chunk(low)
    else:
        with ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS)) as pool:
            list(pool.map(draw_chunk, chunks))
    return out


def _fill_positive(words: Words, out: Float32Array) -> None:
    words >>= np.uint32(8)
    out[...] = words.view(np.int32)  # below 2**24, so exact; signed integers convert faster
    np.multiply(out, np.float32(2**-24), out=out)


def _fill_uniform(words: Words, out: Float32Array) -> None:
    _fill_positive(words, out)
    np.multiply(out, np.float32(2), out=out)
    np.subtract(out, np.float32(1), out=out)


def _fill_truncated_normal(words: Words, out: Float32Array) -> None:
    words >>= np.uint32(8)
    t = words.view(np.int32).astype(np.float64)
    t *= 2.0**-23
    t -= 1.0 - 2.0**-24  # the midpoint of each of the 2^24 cells: symmetric, never 0
    square = t * t
    numerator = _polynomial(square, _QUANTILE_P)
    denominator = _polynomial(square, _QUANTILE_Q)
    np.divide(numerator, denominator, out=numerator)
    np.multiply(numerator, t, out=numerator)
    out[...] = numerator


def _fill_signed_constant(words: Words, out: Float32Array) -> None:
    words >>= np.uint32(31)
    out[...] = words.view(np.int32)
    np.multiply(out, np.float32(2), out=out)
    np.subtract(out, np.float32(1), out=out)


def _polynomial(x: npt.NDArray[np.float64], coefficients: tuple[float, ...]) -> npt.NDArray[np.float64]:
    # One NumPy call per operation, so that each is rounded separately and none are fused.
    result = np.multiply(x, coefficients[-1])
    for coefficient in coefficients[-2:0:-1]:
        np.add(result, coefficient, out=result)
        np.multiply(result, x, out=result)
    np.add(result, coefficients[0], out=result)
    return result


class Kind(NamedTuple):
    """A kind of random numbers."""

    fill: Callable[[Words, Float32Array], None]  # fills an array from words, which it may overwrite
    rms_factor: float  # makes the root mean square 1
    #: See `ValueSource`. `"independent"` also says that the kind passes `test_levels_hold_for_simulated_kernels`.
    spread: str | None = None
    centred: bool = True  # whether the mean is 0


KINDS = {
    "uniform": Kind(_fill_uniform, math.sqrt(3.0), "independent"),
    "positive_uniform": Kind(_fill_positive, math.sqrt(3.0), "independent", centred=False),
    "truncated_normal": Kind(_fill_truncated_normal, 1.0 / _TRUNCATED_STDDEV, "independent"),
    "signed_constant": Kind(_fill_signed_constant, 1.0, "two values"),
}
