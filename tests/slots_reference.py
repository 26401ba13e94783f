"""docs/slots_format.md read independently, in plain Python and by the reader in C."""

import functools
import os
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

from keras_slots.slots_file.values import Values

READER = Path(__file__).resolve().parent.parent / "reader"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")


def with_checksum(content):
    """The bytes with a checksum that is right for them."""
    return bytes(content[:-4]) + struct.pack("<I", zlib.crc32(bytes(content[:-4])))


def plain_values(values: Values, start, stop):
    """The values of a kernel, in plain Python for each: an independent reading of docs/slots_format.md."""
    return np.array([[_value(values, c, k) for k in range(values.num_values)] for c in range(start, stop)])


def _value(values, connection, k):
    c = 0 if values.shared else connection
    f = np.float32(values.factor)
    if values.kind == "given":
        x = values.given[k]
    elif values.kind in ("strata", "grid"):
        bits = min(16, (values.bits or 24) - 1 - (values.num_values - 1).bit_length())
        key0, key1 = (philox_word(values.seed, 5, i) for i in (0, 1))
        state = _mix((c + key0) & 0xFFFFFFFF) ^ key1
        word = _mix(state ^ (k // 2 * 0x9E3779B9) & 0xFFFFFFFF)
        half = word >> 16 if k % 2 else word & 0xFFFF
        position, size = (half >> 16 - bits) + (k << bits), values.num_values << bits
        x = np.float32(2 * position - size + 1 if values.bits else position - size // 2) * f
    else:
        word = philox_word(values.seed, 0, c * values.num_values + k)
        x = {
            "uniform": np.float32((word >> 8) / 2**23 - 1),
            "truncated_normal": _truncated_normal(word),
            "positive_uniform": np.float32((word >> 8) / 2**24),
            "signed_constant": np.float32(1 if word >> 31 else -1),
        }[values.kind] * f
    if values.rounded:
        bits = int(x.view("uint32"))
        x = np.uint32((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view("float32")
    return np.float32(x)


def _truncated_normal(word):
    t = ((word >> 8) - 2**23 + 0.5) / 2**23
    p = (1.1962880337002204, -3.3922830094802627, 3.5608779313962153, -1.6615431721671727)
    p = (*p, 0.31450800748164864, -0.01377182059877555)
    q = (
        1.0,
        -3.0741910682352245,
        3.590377483968184,
        -1.9518323382480098,
        0.47596295891769586,
        -0.03827905123521575,
    )
    above, below = (functools.reduce(lambda sum_, c: sum_ * (t * t) + c, reversed(x)) for x in (p, q))
    return np.float32(t * (above / below))


def _mix(x):
    for multiplier, shift in ((0x21F0AAAD, 16), (0xD35A2D97, 15)):
        x = (x ^ x >> shift) * multiplier & 0xFFFFFFFF
    return x ^ x >> 15


@functools.lru_cache(maxsize=4096)
def _philox(seed, stream, block):
    x, key, wrap = [block, 0, 0, 0], [seed, stream], 2**64
    for _ in range(10):
        a, b = x[0] * 0xD2E7470EE14C6C93, x[2] * 0xCA5A826395121157
        x = [b // wrap ^ x[1] ^ key[0], b % wrap, a // wrap ^ x[3] ^ key[1], a % wrap]
        key = [(key[0] + 0x9E3779B97F4A7C15) % wrap, (key[1] + 0xBB67AE8584CAA73B) % wrap]
    return x


def philox_word(seed, stream, i):
    return _philox(seed, stream, i // 8)[i % 8 // 2] >> 32 * (i % 2) & 0xFFFFFFFF


def compile_program(folder, source, *flags):
    """Builds a program of C; where CI says that there is a compiler, its absence is a failure."""
    if shutil.which("gcc") is None and not os.environ.get("KERAS_SLOTS_HAS_GCC"):
        pytest.skip("the reader in C is built with gcc, which is not installed; CI demands it")
    program = folder / source.stem
    command = ["gcc", *WARNINGS, *flags, "-o", program, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


def run_program(program, *arguments):
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, errors="backslashreplace", timeout=300
    )
