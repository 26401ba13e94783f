"""A bank in strata, computed wherever it is needed: value k of a connection lies in the k-th of K equal parts.

Value k of connection c is `unit * (k * 2**m + h - K * 2**m / 2)`, h the highest m bits of a hash of (seed, c,
k), and `unit = 2 b / (K * 2**m)`: uniform in the k-th of K equal parts of [-b, b), on a grid of at most 2**23
points. The integer is exact in float32, and one multiplication rounds it: the same bits in NumPy, eager,
compiled and on every device, for no operation can be fused with the next.

The values of a connection are sorted, so the nearest one to a target lies in the target's stratum, or in the
one beside it on the target's side: two hashes find it, whatever K is.

The hash is the two-round xor-shift-multiply mixer of 32 bits with the constants 16, 0x21f0aaad, 15, 0xd35a2d97,
15 (found by the search that C. Wellons describes in "Prospecting for Hash Functions", 2018, with the better
constants of 2022).
"""

import math
from typing import Any, NamedTuple

import numpy as np
from keras import ops

Tensor = Any
Array = np.ndarray[Any, Any]

_GRID_BITS = 23
_GOLDEN = np.uint32(0x9E3779B9)


class Strata(NamedTuple):
    """How the values of a kernel lie; a constant of its arguments.

    Attributes:
        num_values: K, from 1 to 65536.
        bits: m, the bits of the place of a value in its part.
        unit: Distance of two points of the grid, in float32.
    """

    num_values: int
    bits: int
    unit: float

    @property
    def half(self) -> int:
        """Half the number of points of the grid: the integer that stands for the value 0."""
        return self.num_values << (self.bits - 1)


def strata(num_values: int, bound: float) -> Strata:
    """Returns how K values lie in [-bound, bound).

    Args:
        num_values: K.
        bound: Largest magnitude of a value.

    Example:

    >>> strata(8, 1.0)
    Strata(num_values=8, bits=20, unit=2.384185791015625e-07)
    """
    bits = _GRID_BITS - math.ceil(math.log2(num_values))
    return Strata(num_values, bits, float(np.float32(2.0 * bound / (num_values << bits))))


def seed_words(seed: int) -> Array:
    """Returns the two 32-bit words that a 64-bit seed enters the hash by, each mixed from all of it.

    Args:
        seed: Integer, `0 <= seed < 2**64`.

    Example:

    >>> seed_words(1).dtype, len(seed_words(1))
    (dtype('uint32'), 2)
    """
    # The finalizer of SplitMix64: seeds that differ by little give words that have nothing in common.
    z = (seed + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    z ^= z >> 31
    return np.array([z & 0xFFFFFFFF, z >> 32], "uint32")


def sample(strata: Strata, words: Array, start: int, count: int) -> Array:
    """Returns the values `[start, start + count)` of a bank, flattened in C order, K last.

    Args:
        strata: How they lie.
        words: Two words, see `seed_words`.
        start: Index of the first value.
        count: Number of values.

    Returns:
        `float32` array of shape `(count,)`.

    Example:

    >>> values = sample(strata(4, 1.0), seed_words(0), 0, 4)
    >>> bool((np.diff(values) > 0).all()), bool((abs(values) <= 1).all())
    (True, True)
    """
    index = np.arange(start, start + count, dtype="uint64")
    connection, k = (x.astype("uint32") for x in np.divmod(index, np.uint64(strata.num_values)))
    grid = _grid(np, strata, _state(np, connection, words[0], words[1]), k)
    return (grid.astype("int32") - strata.half).astype("float32") * np.float32(strata.unit)


def bank(strata: Strata, words: Tensor, kernel_shape: tuple[int, ...]) -> Tensor:
    """Returns all values of a kernel, `kernel_shape + (K,)` in float32, as tensors.

    Args:
        strata: How they lie.
        words: uint32 tensor of shape `(2,)`.
        kernel_shape: Shape of the kernel.
    """
    state = _kernel_state(words, kernel_shape)[..., None]
    k = ops.cast(ops.arange(strata.num_values, dtype="int32"), "uint32")
    return _values(strata, _grid(ops, strata, state, k))


def nearest(
    strata: Strata, words: Tensor, target: Tensor, remaining: Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """The value of each connection that is nearest to `target / remaining`, and its index.

    A target in the middle takes the lower value; one beyond the values takes the last of them. Two values are
    compared at the middle of their places on the grid, with a target that is rounded once: by at most 6e-8 of
    its size.

    Args:
        strata: How the values lie.
        words: uint32 tensor of shape `(2,)`.
        target: Tensor of the kernel's shape.
        remaining: Positive scalar tensor.

    Returns:
        `(values, indices)`: float32 and int32 tensors of the kernel's shape.

    Example:

    >>> import numpy as np
    >>> from keras_slots.strata import nearest, sample, seed_words, strata
    >>> fixed, words = strata(4, 1.0), seed_words(0)
    >>> values, index = nearest(fixed, words, np.array([-9.0, 0.1, 9.0], "float32"))
    >>> own = sample(fixed, words, 0, 12).reshape(3, 4)
    >>> bool((np.asarray(values) == own[np.arange(3), np.asarray(index)]).all()), np.asarray(index)[[0, 2]]
    (True, array([0, 3], dtype=int32))
    """
    target = ops.convert_to_tensor(target)
    places = target * (ops.cast(1.0 / strata.unit, target.dtype) / remaining)
    half = float(strata.half)
    # NaN counts as the lowest: a conversion of NaN to an integer is undefined.
    inside = ops.where(places > -half, places, -half)
    inside = ops.where(inside < half - 1, inside, half - 1)
    k = ops.right_shift(ops.cast(ops.floor(inside), "int32") + strata.half, strata.bits)
    state = _kernel_state(words, target.shape)

    def place(k: Tensor) -> Tensor:
        return _centred(strata, _grid(ops, strata, state, ops.cast(k, "uint32")))

    own = place(k)
    above = places > ops.cast(own, places.dtype)
    beside = ops.clip(ops.where(above, k + 1, k - 1), 0, strata.num_values - 1)
    other = place(beside)
    # Twice the target against the sum of both places: integers below 2**24, so exact.
    past_middle = places + places > ops.cast(own + other, places.dtype)
    takes_other = ops.equal(past_middle, above)
    chosen = ops.where(takes_other, other, own)
    value = ops.cast(chosen, "float32") * np.float32(strata.unit)
    return value, ops.where(takes_other, beside, k)


def _values(strata: Strata, grid: Tensor) -> Tensor:
    return ops.cast(_centred(strata, grid), "float32") * np.float32(strata.unit)


def _centred(strata: Strata, grid: Tensor) -> Tensor:
    return ops.cast(grid, "int32") - strata.half


def _kernel_state(words: Tensor, kernel_shape: tuple[int, ...]) -> Tensor:
    count = math.prod(kernel_shape)
    connection = ops.cast(ops.reshape(ops.arange(count, dtype="int32"), kernel_shape), "uint32")
    return _state(ops, connection, words[0], words[1])


def _state(np_or_ops: Any, connection: Any, first: Any, second: Any) -> Any:
    return np_or_ops.bitwise_xor(_mix(np_or_ops, np_or_ops.add(connection, first)), second)


def _grid(np_or_ops: Any, strata: Strata, state: Any, k: Any) -> Any:
    """The place of value k on the grid, from 0, uint32."""
    hashed = _mix(np_or_ops, np_or_ops.bitwise_xor(state, np_or_ops.multiply(k, _GOLDEN)))
    place = np_or_ops.right_shift(hashed, np.uint32(32 - strata.bits))
    return np_or_ops.add(np_or_ops.left_shift(k, np.uint32(strata.bits)), place)


def _mix(np_or_ops: Any, x: Any) -> Any:
    xor, shift, times = np_or_ops.bitwise_xor, np_or_ops.right_shift, np_or_ops.multiply
    x = times(xor(x, shift(x, np.uint32(16))), np.uint32(0x21F0AAAD))
    x = times(xor(x, shift(x, np.uint32(15))), np.uint32(0xD35A2D97))
    return xor(x, shift(x, np.uint32(15)))
