"""Binary decisions with known probabilities as 16-bit words: interleaved rANS in integer arithmetic.

The coder of Duda 2013, "Asymmetric numeral systems", in its range variant, with several states side by side as in
Giesen 2014, "Interleaved entropy coders", so that NumPy codes many decisions at once. A decision is 1 with the
probability p / 4096, 0 < p < 4096. States are in [2**16, 2**32); decision i of a block belongs to lane i modulo
the number of lanes. Decoding one bit of state x:

    low = x % 4096; bit = low < p
    x = p * (x // 4096) + low                   if bit
    x = (4096 - p) * (x // 4096) + low - p      otherwise
    if x < 2**16: x = x * 2**16 + next word

A decoder that has read everything is left with 2**16 in every lane, and no word.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BITS = 12
FULL = 1 << BITS
_LOWEST = 1 << 16


class Encoder:
    """Takes blocks of decisions, and codes them when all are known: the last comes first.

    Args:
        lanes: Number of states, a power of two.
    """

    def __init__(self, lanes: int):
        self.lanes = lanes
        self._blocks: list[tuple[Array, Array]] = []

    def put(self, bits: Array, p: Array) -> None:
        """Takes a block: booleans, and the probability of each to be True in units of 1/4096."""
        if len(bits):
            # What the state is divided by, and what is added: below 4096, so 16 bits keep them.
            size = np.where(bits, p, FULL - p).astype("uint16")
            self._blocks.append((size, np.where(bits, 0, p).astype("uint16")))

    def words(self) -> Array:
        """All that a decoder needs, uint16: first the states of all lanes, low word first."""
        if self.lanes == 1:
            return self._words_of_one_lane()
        lanes, out = self.lanes, []
        state = np.full(lanes, _LOWEST, "uint64")
        for size, offset in reversed(self._blocks):
            for low in reversed(range(0, len(size), lanes)):
                f = size[low : low + lanes].astype("uint64")
                x = state[: len(f)]
                full = x >= f << np.uint64(32 - BITS)
                if full.any():
                    out.append(x[full][::-1].astype("uint16"))
                    x = np.where(full, x >> np.uint64(16), x)
                quotient, rest = np.divmod(x, f)
                state[: len(f)] = (quotient << np.uint64(BITS)) + rest + offset[low : low + lanes]
        first = state.astype("<u4").view("<u2").astype("uint16")
        return np.concatenate([first, *(part[::-1] for part in reversed(out))])

    def _words_of_one_lane(self) -> Array:
        """The same without arrays of one element, as small kernels would have."""
        x, out = _LOWEST, []
        for size, offset in reversed(self._blocks):
            for f, more in zip(size[::-1].tolist(), offset[::-1].tolist(), strict=True):
                if x >= f << (32 - BITS):
                    out.append(x & 0xFFFF)
                    x >>= 16
                x = (x // f << BITS) + x % f + more
        return np.array([x & 0xFFFF, x >> 16, *reversed(out)], "uint16")


class Decoder:
    """Gives the decisions back, block by block, when it is told the same probabilities.

    Args:
        lanes: As of the `Encoder`.
        words: uint16 array.

    Raises:
        ValueError: If there are fewer words than the decisions need.
    """

    def __init__(self, lanes: int, words: Array):
        if len(words) < 2 * lanes:
            raise ValueError(_ENDED)
        first = words[: 2 * lanes].astype("uint64").reshape(lanes, 2)
        self._state = first[:, 0] | first[:, 1] << np.uint64(16)
        self.lanes = lanes
        self._words = np.concatenate([words[2 * lanes :], np.zeros(lanes, "uint16")])
        self._left, self._at = len(words) - 2 * lanes, 0

    def take(self, p: Array) -> Array:
        """The decisions of a block, booleans."""
        if self.lanes == 1:
            return self._take_in_one_lane(p)
        bits = np.empty(len(p), bool)
        wide = p.astype("uint64")
        for low in range(0, len(p), self.lanes):
            f = wide[low : low + self.lanes]
            x = self._state[: len(f)]
            rest = x & np.uint64(FULL - 1)
            bit = rest < f
            bits[low : low + self.lanes] = bit
            rest = np.where(bit, rest, rest - f)
            x = (x >> np.uint64(BITS)) * np.where(bit, f, np.uint64(FULL) - f) + rest
            short = np.flatnonzero(x < _LOWEST)
            if len(short):
                if self._at + len(short) > self._left:
                    raise ValueError(_ENDED)
                x[short] = x[short] << np.uint64(16) | self._words[self._at : self._at + len(short)]
                self._at += len(short)
            self._state[: len(f)] = x
        return bits

    def _take_in_one_lane(self, p: Array) -> Array:
        x, bits = int(self._state[0]), []
        for f in p.tolist():
            rest = x & (FULL - 1)
            bits.append(rest < f)
            x = f * (x >> BITS) + rest if rest < f else (FULL - f) * (x >> BITS) + rest - f
            if x < _LOWEST:
                if self._at == self._left:
                    raise ValueError(_ENDED)
                x = x << 16 | int(self._words[self._at])
                self._at += 1
        self._state[0] = x
        return np.array(bits, bool)

    def check_end(self) -> None:
        """Raises a `ValueError` if words are left or the states are not those of the beginning."""
        if self._at != self._left or (self._state != _LOWEST).any():
            raise ValueError("coded choices that do not end where they must")


_ENDED = "coded choices that end too early"
