"""The numbers of `tf.random.stateless_*` on a CPU in NumPy, so that JAX needs no TensorFlow for them.

A pure function of a seed of two integers, by Philox4x32-10 (Salmon et al. 2011, "Parallel Random
Numbers: As Easy as 1, 2, 3"). NumPy and keras_slots have Philox4x64, whose numbers are others: the
committed results were trained with these.
"""

import numpy as np

_MULTIPLIERS = np.uint64([0xD2511F53, 0xCD9E8D57])[:, None]
_KEY_STEPS = np.uint64([0x9E3779B9, 0xBB67AE85])[:, None]
_SCRAMBLING_KEY = (0x3EC8F720, 0x02461E29)  # by which TensorFlow makes key and counter of a seed
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox(counters, key):
    """`counters` of shape (4, n) and a key of two words give (4, n) uint32 words."""
    words, key = np.array(counters, np.uint64), np.array(key, np.uint64)[:, None]
    for _ in range(10):
        products = words[::2] * _MULTIPLIERS
        words[::2] = (products[::-1] >> _HALF) ^ words[1::2] ^ key
        words[1::2] = products[::-1] & _LOW
        key = (key + _KEY_STEPS) & _LOW
    return words.astype(np.uint32)


def _words(seed, count):
    low_high = [int(number) >> shift & 0xFFFFFFFF for number in seed for shift in (0, 32)]
    start = philox(np.array(low_high)[:, None], _SCRAMBLING_KEY)[:, 0]
    counters = np.zeros((4, -(-count // 4)), np.uint64)
    counters[0], counters[2], counters[3] = np.arange(counters.shape[1]), start[2], start[3]
    return philox(counters, start[:2]).T.reshape(-1)[:count]


def uniform(shape, seed):
    """`tf.random.stateless_uniform(shape, seed)`: float32 in [0, 1)."""
    mantissa = _words(seed, int(np.prod(shape))) & np.uint32(0x7FFFFF)
    return ((mantissa | np.uint32(0x3F800000)).view(np.float32) - np.float32(1)).reshape(shape)


def permutation(count, seed):
    """`tf.random.experimental.stateless_shuffle(tf.range(count), seed)`, by Fisher and Yates."""
    left = count - np.arange(count)
    partners = (np.arange(count) + _words(seed, count) % left).tolist()
    order = list(range(count))
    for place, partner in enumerate(partners):
        order[place], order[partner] = order[partner], order[place]
    return np.array(order)
