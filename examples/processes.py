"""Several processes, on one host or many, that train one network (JAX).

All of them run the same program on their own share of every batch. Process 0 alone touches the run
folder, and tells the others what it found there.
"""

import io
import json
import os

import numpy as np

from runfolder import RunError

_PIECE = 2**28  # bytes sent at a time
_VARIABLES = tuple(
    f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)
_joined = False


def add_flags(parser):
    group = parser.add_argument_group(
        "several processes",
        "KERAS_BACKEND=jax only; every process gets the same command but for --process-id. Without "
        f"flags the environment variables {', '.join(_VARIABLES)} are read.",
    )
    group.add_argument(
        "--hosts",
        metavar="HOST:PORT",
        help="address of process 0, or auto: what SLURM, Open MPI or a TPU pod says",
    )
    group.add_argument("--process-id", type=int, metavar="I", help="number of this process, from 0")
    group.add_argument("--num-processes", type=int, metavar="N", help="number of all processes")


def join(hosts=None, process_id=None, num_processes=None):
    """Joins the other processes, when flags or environment say that there are some.

    Must come before anything is computed.
    """
    global _joined
    if _joined:
        return
    if hosts is None and (process_id is not None or num_processes is not None):
        raise RunError("--process-id and --num-processes need --hosts HOST:PORT of process 0")
    if hosts is None and not any(name in os.environ for name in _VARIABLES):
        return
    import keras

    if keras.backend.backend() != "jax":
        raise RunError(
            "several processes need the JAX backend: set the environment variable "
            f"KERAS_BACKEND=jax. Received: {keras.backend.backend()}"
        )
    import jax

    address, total, number = (os.environ.get(name) for name in _VARIABLES)
    hosts = hosts or address or "auto"
    try:
        # What `keras.distribution.initialize` calls, but for a common seed, which runs have already
        # and for which Keras would import TensorFlow.
        jax.distributed.initialize(
            None if hosts == "auto" else hosts.split(",")[0],
            _given(num_processes, total),
            _given(process_id, number),
        )
    except (ValueError, RuntimeError) as error:
        raise RunError(f"cannot join the other processes at {hosts}: {error}") from error
    _joined = True


def _given(flag, variable):
    return int(variable) if flag is None and variable is not None else flag


def count():
    """The number of processes."""
    return _number("process_count", 1)


def index():
    """The number of this process, from 0."""
    return _number("process_index", 0)


def _number(function, alone):
    if not _joined:
        return alone
    import jax

    return getattr(jax, function)()


def share(size):
    """The slice of a batch of `size` that this process feeds."""
    own = size // count()
    return slice(index() * own, (index() + 1) * own)


def on_first(function):
    """What `function` returns in process 0, a JSON value, in every process; its `RunError` too."""
    if count() == 1:
        return function()
    answer = {}
    if index() == 0:
        try:
            answer = {"result": function()}
        except RunError as error:
            answer = {"error": str(error)}
    answer = json.loads(_broadcast(json.dumps(answer).encode()))
    if "error" in answer:
        raise RunError(answer["error"])
    return answer["result"]


def everywhere(function):
    """What `function` returns here, once it has succeeded in every process.

    A process that fails alone would leave the others waiting.
    """
    if count() == 1:
        return function()
    from jax.experimental.multihost_utils import process_allgather

    failure, result = None, None
    try:
        result = function()
    except Exception as error:
        failure = error
    failed = np.flatnonzero(process_allgather(np.array(failure is not None)))
    if failure is not None:
        raise failure
    if len(failed):
        raise RunError(f"process {failed[0]} failed: its own message says why")
    return result


def open_shared(path):
    """The file that process 0 sees at `path`, open in every process; None when there is none."""
    if not on_first(lambda: os.path.exists(path)):
        return None
    if count() == 1:
        return open(path, "rb")
    content = b""
    if index() == 0:
        with open(path, "rb") as file:
            content = file.read()
    return io.BytesIO(_broadcast(content))


def _broadcast(content):
    """The bytes of process 0, in every process."""
    from jax.experimental.multihost_utils import broadcast_one_to_all

    length = np.array(divmod(len(content), _PIECE), np.int32)
    pieces, rest = (int(number) for number in broadcast_one_to_all(length))
    received = []
    for size in [_PIECE] * pieces + [rest] * (rest > 0):
        piece = content[:size] if index() == 0 else bytes(size)
        received.append(np.asarray(broadcast_one_to_all(np.frombuffer(piece, np.uint8))).tobytes())
        content = content[size:]
    return b"".join(received)
