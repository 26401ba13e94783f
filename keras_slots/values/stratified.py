"""Values hashed from (seed, connection, k) instead of stored, with the same bits on every device.

[-b, b) is divided into K equal parts, the strata, and value k of a connection lies in stratum k. A stratum has
`2**bits` positions, of which a hash picks one; P = K * 2**bits, the number of all positions, is at most 2**23:

    position(i, k) = k * 2**bits + half(i, k) >> (16 - bits)
    value(i, k) = (position - P / 2) * float32(2 b / P)

Positions are integers, exact in float32, and the value is one rounded multiplication, without an addition that a
compiler might fuse with it. So NumPy, eager and compiled code agree in every bit.

For weights in integers, P can be limited to `2**(B - 1)`: then a value is an integer of B bits times one number of
the layer,

    value(i, k) = (2 position - P + 1) * float32(b / P)

`half(i, k)` is 16 bits, the low ones of h(i, j) for k = 2 j and the high ones for k = 2 j + 1, with

    h(i, j) = mix(mix(i + key0) ^ key1 ^ (j * 0x9E3779B9))

in unsigned 32-bit arithmetic. It is done with int32, as PyTorch has no uint32: sums and products have the same
bits, and shifts drop copies of the sign. `mix` is the two-round xorshift-multiply permutation with the lowest
known bias (github skeeto/hash-prospector, exact bias 0.1076, below that of Murmur's finalizer), nested as in
Jarzynski and Olano 2020, "Hash Functions for GPU Rendering". The multiplier of j is that of SplitMix (Steele, Lea
and Flood 2014). The two keys are words of the Philox stream of the seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_slots._checks import check_bits, check_num_values
from keras_slots._registry import register
from keras_slots.values.distributions import Distribution
from keras_slots.values.philox import STRATA_STREAM, Float32Array, Words, raw_words
from keras_slots.values.source import Description

Tensor = Any

#: Multiplier of the index j of a pair of values.
SPREAD = 0x9E3779B9 - 2**32
_BLOCK_VALUES = 2**20  # per block on the host; temporary arrays take a few times their size


@dataclass(frozen=True)
class Grid:
    """The integers that, times the unit of a kernel, are all values that a connection can have.

    Position p is the integer `step * p + lowest`.

    Args:
        num_values: K, from 1 to 65,536.
        bits: Size of the integers, from 4 to 16; None: they are not limited to a size.

    Raises:
        ValueError: If an argument is out of range, or there are fewer integers than K values.

    Example:

    >>> [Grid(k).stratum_bits for k in (1, 8, 128, 4096, 65536)]
    [16, 16, 16, 11, 7]
    >>> grid = Grid(3, bits=8)
    >>> grid.size, grid.lowest, grid.lowest + grid.step * (grid.size - 1)
    (96, -95, 95)
    """

    num_values: int
    bits: int | None = None

    def __post_init__(self) -> None:
        check_num_values(self.num_values)
        if self.bits is not None and self.num_values > 2 ** (check_bits(self.bits) - 1):
            raise ValueError(
                "`num_values` must be at most 2**(bits - 1), because the values of a connection are different "
                f"integers of that size. Received: num_values={self.num_values} and bits={self.bits}. Pass larger "
                "`bits`, or None."
            )

    @property
    def stratum_bits(self) -> int:
        """The base-2 logarithm of the number of positions in a stratum."""
        most = 23 if self.bits is None else self.bits - 1
        return min(16, most - (self.num_values - 1).bit_length())

    @property
    def size(self) -> int:
        """P, the number of positions."""
        return self.num_values << self.stratum_bits

    @property
    def step(self) -> int:
        """The difference of the integers of neighbouring positions."""
        return 1 if self.bits is None else 2

    @property
    def lowest(self) -> int:
        """The integer of the lowest position."""
        return -self.size // 2 if self.bits is None else 1 - self.size

    def unit(self, bound: float) -> np.float32:
        """The number that multiplies the integers, `float32(2 b / (step * P))`."""
        return np.float32(2.0 * float(np.float32(bound)) / (self.step * self.size))


def mix(x: Any, xp: Any = ops) -> Any:
    """Permutes int32 so that each output bit depends on all input bits; `xp` is `ops` or, for arrays, NumPy."""
    x = xp.bitwise_xor(x, shifted(x, 16, xp))
    x = xp.multiply(x, 0x21F0AAAD)
    x = xp.bitwise_xor(x, shifted(x, 15, xp))
    x = xp.multiply(x, 0xD35A2D97 - 2**32)
    return xp.bitwise_xor(x, shifted(x, 15, xp))


def shifted(x: Any, bits: int, xp: Any = ops) -> Any:
    """`x >> bits` of the unsigned integers with the bits of `x`."""
    return xp.bitwise_and(xp.right_shift(x, bits), 2 ** (32 - bits) - 1)


def connection_state(words: Any, rows: Any, columns: Any, xp: Any = ops) -> Any:
    """The part of the hash that the values of a connection share: `mix(i + key0) ^ key1`, int32.

    `i = rows + columns` is broadcast, which compiles to faster code than one counter of all connections.
    """
    # Not `ops.add`, which on TensorFlow mistakes `columns` for a channels-first bias if the sizes happen to fit.
    counter = (rows + words[0]) + columns
    return xp.bitwise_xor(mix(counter, xp), words[1])


def count_connections(shape: tuple[int, ...]) -> tuple[Any, Any]:
    """The number of each connection in C order as `rows + columns`, two int32 tensors that are broadcast."""
    if not shape:
        return ops.zeros((), "int32"), ops.zeros((), "int32")
    *leading, size = shape
    rows = ops.arange(math.prod(leading), dtype="int32") * size
    return ops.reshape(rows, (*leading, 1)), ops.arange(size, dtype="int32")


def count_connections_of(rows: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """The numbers that `count_connections(shape)` gives in these rows, the first axis of `shape`."""
    first, columns = count_connections(shape[1:])
    rows = ops.reshape(rows, (-1, *[1] * (len(shape) - 1)))
    return first + rows * math.prod(shape[1:]), columns


def pair_hash(state: Any, spread: Any, xp: Any = ops) -> Any:
    """The hash of the values 2 j and 2 j + 1, int32; `spread` is `j * SPREAD`, int32."""
    return mix(xp.bitwise_xor(state, spread), xp)


def offsets(word: Any, bits: int, xp: Any = ops) -> tuple[Any, Any]:
    """The positions of the two values of a pair within their strata, in [0, 2**bits), int32."""
    if not bits:
        return word * 0, word * 0
    low, high = xp.bitwise_and(word, 0xFFFF), shifted(word, 32 - bits, xp)
    return (low if bits == 16 else xp.right_shift(low, 16 - bits)), high


@register("stratified_uniform")
class StratifiedUniform(Distribution):
    """Value k uniform in the k-th of K equal parts of `[-b, b)`, `b = scale * sqrt(6 / (fan_in + fan_out))`.

    The values of a connection are sorted, and together they are as uniform as those of `GlorotUniform`. Each is a
    hash of (seed, connection, k), so it can be computed separately, on any device, in a few operations.

    With `bits` each value is an integer of that size times one number of the kernel, so that integer weights, as
    of LiteRT or a microcontroller, are exactly the values that training chose. P is the largest
    `K * 2**s <= 2**(bits - 1)`; the integers are -P + 1, -P + 3, ..., P - 1, and the number is `float32(b / P)`.

    Args:
        scale: positive finite number that multiplies every value.
        bits: integer from 4 to 16, the size of the integers; K is at most `2**(bits - 1)`. None: there are so many
            values that only float32 holds them.
        seed: integer, `0 <= seed < 2**64`, used instead of the seed of the layer; None: the seed of the layer.

    Example:

    >>> StratifiedUniform().rows(seed=0, num_values=4, fans=(2, 4), start=0, stop=1).round(2)
    array([[-0.82, -0.07,  0.29,  0.68]], dtype=float32)
    >>> StratifiedUniform(bits=8).rows(seed=0, num_values=4, fans=(2, 4), start=0, stop=1) * 128
    array([[-105.,   -9.,   37.,   87.]], dtype=float32)

    Raises:
        ValueError: If an argument is out of range; a layer raises one if K is too large for `bits`.

    Not in the paper, whose values are independent of each other.
    """

    roles = frozenset({"bank"})
    kind, _variance, _mode = "uniform", 1.0, "fan_avg"
    spread = "strata"

    def __init__(self, scale: float = 1.0, *, bits: int | None = None, seed: int | None = None) -> None:
        super().__init__(scale, seed=seed)
        self.bits = None if bits is None else check_bits(bits)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bits": self.bits}

    def check_num_values(self, num_values: int) -> None:
        Grid(num_values, self.bits)

    def bound(self, fans: tuple[int, int]) -> float:
        """Returns b, rounded to float32."""
        return self.factor(fans)

    def words(self, seed: int) -> Words:
        """Returns the two keys of the hash, uint32; `self.seed` replaces `seed` if it is set."""
        return raw_words(seed if self.seed is None else self.seed, STRATA_STREAM, 2)

    def rows(self, seed: int, num_values: int, fans: tuple[int, int], start: int, stop: int) -> Float32Array:
        if not 0 <= start <= stop <= 2**32:
            raise ValueError(
                "`start` and `stop` must be numbers of connections, at most 2**32. "
                f"Received: start={start}, stop={stop}. Use another `bank_initializer` for larger kernels."
            )
        words, grid = self.words(seed), Grid(num_values, self.bits)
        unit = grid.unit(self.bound(fans))
        values = np.empty((stop - start, num_values), "float32")
        block = max(1, _BLOCK_VALUES // num_values)
        for low in range(start, stop, block):
            connections = np.arange(low, min(low + block, stop), dtype=np.uint64).astype("uint32")
            part = values[low - start : low - start + len(connections)]
            np.multiply(integers(words, connections, grid), unit, out=part)
        return values

    @classmethod
    def for_weights(cls, kernels: list[tuple[np.ndarray, tuple[int, int]]], num_values: int) -> StratifiedUniform:
        """Returns the bank whose values come closest to given weights, of 24 widths up to the widest that helps.

        Closest is the smallest sum over kernels of `(0.1 (2 b / K)**2 + mean(max(|w| - b, 0)**2)) / mean(w**2)`,
        an estimate of the mean squared distance between weights and their nearest values.

        Args:
            kernels: Pairs of weights and the `(fan_in, fan_out)` of their kernel.
            num_values: K.
        """
        sizes = [
            (np.abs(weights, dtype="float64"), cls().bound(fans)) for weights, fans in kernels if weights.any()
        ]
        widest = max((size.max() / bound for size, bound in sizes), default=np.inf)
        if not widest < np.inf:
            return cls(1.5)

        def error(scale: float) -> float:
            total = 0.0
            for size, bound in sizes:
                within, beyond = 2 * scale * bound / num_values, np.maximum(size - scale * bound, 0)
                total += (0.1 * within**2 + np.square(beyond).mean()) / np.square(size).mean()
            return float(total)

        return cls(float(min(widest * 0.9 ** np.arange(24), key=error)))

    def describe(self, seed: int, num_values: int, fans: tuple[int, int]) -> Description | None:
        kind, seed = "strata" if self.bits is None else "grid", seed if self.seed is None else self.seed
        unit = float(Grid(num_values, self.bits).unit(self.bound(fans)))
        return Description(kind, seed, unit, bits=self.bits)

    def sample(self, *args: Any, **kwargs: Any) -> Float32Array:
        # The values depend on K, so only `rows` can draw them.
        raise ValueError(
            "`StratifiedUniform` is a distribution of the K values of a connection, and can only be used as "
            "`bank_initializer`. Pass for example 'glorot_uniform' here."
        )


def integers(words: Words, connections: Words, grid: Grid) -> Float32Array:
    """The integers of all values of the connections, exact in float32, of shape `(n, K)`."""
    k, bits = grid.num_values, grid.stratum_bits
    spread = np.arange((k + 1) // 2, dtype="int32") * np.int32(SPREAD)
    state = connection_state(words.view("int32"), np.int32(0), connections.view("int32"), np)
    word = pair_hash(state[:, None], spread, np)
    position = np.stack(offsets(word, bits, np), axis=-1).reshape(len(connections), -1)[:, :k]
    position += np.arange(k, dtype="int32") << bits
    return (position * grid.step + grid.lowest).astype("float32")
