"""Lines of connections, the arg-max over them, and the reading of a staircase, in plain NumPy for the tests."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_slots.kernels.staircase import build_staircase
from keras_slots.values.initial_values import InitialValues

SPECIAL = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1 / 3, 0.1, 1e-20, -1e-20, 1e20, 1e-38])
ENTRIES = st.one_of(st.floats(-4, 4, width=32), st.integers(-2, 2).map(float), SPECIAL)


def paper_like(num_values, count, seed=0, dtype="float32"):
    """A bank from U(-1, 1) and scores from U(0, 0.1), each of shape `(count, K)`."""
    rng = np.random.default_rng(seed)
    bank = rng.uniform(-1, 1, (count, num_values)).astype(dtype)
    return bank, rng.uniform(0, 0.1, (count, num_values)).astype(dtype)


def brute_force(bank, scores, lever):
    """`bank[argmax_k(scores + bank * lever)]`, lowest index on ties, in float64."""
    bank, scores = np.broadcast_to(bank, scores.shape).astype("float64"), scores.astype("float64")
    lever = np.broadcast_to(lever, len(scores)).astype("float64")
    index = np.argmax(scores + bank * lever[:, None], axis=1)
    return bank[np.arange(len(bank)), index]


def build(bank, scores, dtype="float64", **arguments):
    """The staircase of bank `(n, K)` or `(K,)` and scores `(n, K)`."""
    sharing = "layer" if bank.ndim == 1 else "connection"
    initial = InitialValues((len(scores),), scores.shape[1], (1, 1), 0, None, None, sharing)
    return build_staircase(initial.with_arrays(bank, scores), dtype, **arguments)


def read(staircase, lever):
    """The rule by which a staircase is read, step by step."""
    thresholds, steps = staircase
    lever = np.broadcast_to(np.asarray(lever, thresholds.dtype), steps.shape[1])
    value = steps[0].copy()
    for h in range(len(thresholds)):
        value = np.where(lever > thresholds[h], steps[h + 1], value)
    return value


def rises(first, steps):
    """Where a step leads to another value, row by row: what is filled up repeats the last one."""
    return np.concatenate([first[None], steps[:-1]])[: len(steps)] != steps


def any_lines(max_values=9, max_connections=4):
    """Bank and scores of any numbers, each of shape `(n, K)`."""

    def arrays(shape):
        entries = hnp.arrays("float64", shape, elements=ENTRIES)
        return st.tuples(entries, entries)

    sizes = st.tuples(st.integers(1, max_connections), st.integers(1, max_values))
    return sizes.flatmap(arrays)
