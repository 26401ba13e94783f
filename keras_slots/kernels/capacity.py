"""How many steps the staircases of a kernel may need: known before anything is drawn.

The K lines of a connection are K random points (value, score), and a step of its staircase is an edge of the
upper side of their convex hull. For values and scores that are both uniform the number of steps has a known
distribution, exact for every K (Buchta 2012, "On the boundary structure of the convex hull of random points",
for a triangle; a square is two rectangles beside the highest point). It has few steps for nearly all connections
and a thin tail:

| K | 4 | 8 | 16 | 32 | 64 | 256 | 4096 |
|---|---|---|---|---|---|---|---|
| mean number of steps | 1.85 | 2.70 | 3.58 | 4.49 | 5.40 | 7.24 | 10.94 |
| `levels`: at most 1 % have more | 3 | 5 | 6 | 8 | 9 | 12 | 16 |
| `levels + overflow_levels`: with probability 5e-18 more | 3 | 7 | 15 | 18 | 21 | 26 | 35 |

So every connection gets `levels` steps, and `overflow_count` connections, a generous bound of how many have more,
get `overflow_levels` further ones. By simulation, values from a truncated normal and values rounded to 16 bits
need fewer steps, and stratified values up to a sixth more connections with overflow: they get a quarter more, and
one more level. `tests/test_capacity.py` derives the table anew, up to K = 1024, and compares it with simulated
kernels. One level count for all would double the memory at K = 64, and the step would take 2.9 times that of
plain layers in place of 1.6 (docs/per_connection.md).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from keras_slots.values.initial_values import InitialValues

#: K -> levels, overflow levels, and the share of connections with more than `levels` steps.
_TABLE: dict[int, tuple[int, int, float]] = {
    4: (3, 0, 0.0),
    8: (5, 2, 0.00108),
    16: (6, 9, 0.00542),
    32: (8, 10, 0.00174),
    64: (9, 12, 0.00408),
    128: (10, 14, 0.00725),
    256: (12, 14, 0.00269),
    512: (13, 15, 0.00421),
    1024: (14, 17, 0.00595),
    2048: (15, 18, 0.00783),
    4096: (16, 19, 0.00979),
    8192: (18, 19, 0.0042),
    16384: (19, 20, 0.00521),
    32768: (20, 20, 0.00626),
    65536: (21, 21, 0.00734),
}
# A connection with overflow costs about as much as this many others: its numbers are gathered and scattered.
_GATHER_COST = 8


class Capacity(NamedTuple):
    """Sizes of the arrays of a `staircase.Staircase`.

    Attributes:
        levels: Thresholds that every connection has.
        overflow_levels: Further thresholds of a connection with overflow.
        overflow_count: Number of connections that may have overflow.
    """

    levels: int
    overflow_levels: int
    overflow_count: int


def capacity(initial: InitialValues) -> Capacity:
    """How many steps to provide for: a function of the arguments of a kernel, never of its draw.

    `overflow_count = ceil(n p + 8 sqrt(n p) + 16)`, n the number of connections and p the share of them with more
    than `levels` steps. The chance that a draw needs more is below 1e-9 for 160 million connections. Where
    nothing is known of the values (a Keras initializer, given values) every connection gets the `K - 1` steps
    that are always enough.

    Example:

    >>> from keras_slots import GlorotUniform, UniformScores
    >>> start = 7, GlorotUniform(), UniformScores(), "connection"
    >>> capacity(InitialValues((784, 300), 64, (784, 300), *start))
    Capacity(levels=9, overflow_levels=12, overflow_count=1224)
    """
    most = initial.num_values - 1
    if initial.bank_source.spread == "two values":
        return Capacity(min(1, most), 0, 0)
    if most <= 3 or not _table_holds(initial):
        return Capacity(most, 0, 0)
    levels, overflow_levels, share = _TABLE[2 ** math.ceil(math.log2(initial.num_values))]
    if initial.bank_source.spread == "strata":
        overflow_levels, share = overflow_levels + 1, 1.25 * share
    levels = min(levels, most)
    overflow_levels = min(overflow_levels, most - levels)
    count = initial.num_connections
    expected = count * share
    overflow_count = math.ceil(expected + 8 * math.sqrt(expected) + 16)
    # One set of values for all connections gives all of them overflow together.
    if not overflow_levels or initial.shared or overflow_count * _GATHER_COST > count:
        return Capacity(levels + overflow_levels, 0, 0)
    return Capacity(levels, overflow_levels, overflow_count)


def _table_holds(initial: InitialValues) -> bool:
    """Whether scores are uniform, and values independent of each other, or nearly so."""
    return initial.score_source.uniform and initial.bank_source.spread in ("independent", "strata")
