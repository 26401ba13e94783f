"""Other ways to find the value of a lever, timed in the training step of the network (TensorFlow).

    python benchmarks/selection_alternatives.py --network lenet300100 --num-values 8,64 --out FILE

All of them select the same values, "K lines" but for rounding; the script checks that before it times them:

    staircase            what the library does: a pass over all steps of the staircase
    staircase by rows    the steps of a connection side by side in memory, and a gather
    binary search        log2 of the steps, each a gather
    sparse tail          a pass over the steps that many connections have, and a scatter for the others
    lazy                 the last selection is kept with the interval of the lever where it holds; only levers
                         that left theirs are looked up again (not under tf.distribute, nor in XLA programs)
    K lines              no staircase: arg-max of K scores from bank and first scores, kept in memory
    lever itself         no selection, not a slot machine: what remains is the cost of the mode's other parts
"""

import argparse
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import networks
import record
import step_time
from keras_slots import slotify
from keras_slots.selection import climb, greedy_index, lookup


def constant(array):
    return tf.Variable(array, trainable=False)


def compiled(function):
    return tf.function(function, jit_compile=True, autograph=False)


def staircase(kernel, thresholds, steps):
    thresholds, steps = constant(thresholds), constant(steps)
    select = compiled(climb)
    return lambda u, c: select(u, c, thresholds.read_value(), steps.read_value())


def by_rows(kernel, thresholds, steps):
    thresholds = constant(np.moveaxis(thresholds, 0, -1).copy())
    steps = constant(np.moveaxis(steps, 0, -1).copy())

    @compiled
    def select(u, c, thresholds, steps):
        step = tf.reduce_sum(tf.cast(u[..., None] > c * thresholds, tf.int32), -1)
        return lookup(steps, step)

    return lambda u, c: select(u, c, thresholds.read_value(), steps.read_value())


def binary_search(kernel, thresholds, steps):
    size = 2 ** int(np.ceil(np.log2(len(steps))))
    shape = (size - 1 - len(thresholds), *thresholds.shape[1:])
    thresholds = np.concatenate([thresholds, np.full(shape, np.inf, thresholds.dtype)])
    thresholds = constant(np.moveaxis(thresholds, 0, -1).copy())
    steps = constant(np.moveaxis(steps, 0, -1).copy())

    @compiled
    def select(u, c, thresholds, steps):
        step = tf.zeros_like(u, tf.int32)
        half = size // 2
        while half:
            at = tf.gather(thresholds, step + half - 1, batch_dims=len(u.shape))
            step = tf.where(u > c * at, step + half, step)
            half //= 2
        return tf.gather(steps, step, batch_dims=len(u.shape))

    return lambda u, c: select(u, c, thresholds.read_value(), steps.read_value())


def sparse_tail(kernel, thresholds, steps, share=0.005):
    """All but `share` of the connections have no more steps than the pass covers."""
    count = (thresholds < np.finfo(thresholds.dtype).max).sum(0).ravel()
    dense = int(np.quantile(count, 1 - share))
    index = np.flatnonzero(count > dense)
    top = int(count.max())
    arrays = [
        *(thresholds[:dense], steps[: dense + 1], index.astype("int32")),
        thresholds.reshape(len(thresholds), -1)[dense:top, index],
        steps.reshape(len(steps), -1)[dense + 1 : top + 1, index],
    ]
    arrays = [constant(array) for array in arrays]

    @compiled
    def select(u, c, thresholds, steps, index, high_thresholds, high_steps):
        values = climb(u, c, thresholds, steps)
        flat, lever = tf.reshape(values, [-1]), tf.gather(tf.reshape(u, [-1]), index)
        high = tf.gather(flat, index)
        for h in range(high_thresholds.shape[0]):
            high = tf.where(lever > c * high_thresholds[h], high_steps[h], high)
        return tf.reshape(tf.tensor_scatter_nd_update(flat, index[:, None], high), u.shape)

    return lambda u, c: select(u, c, *(array.read_value() for array in arrays))


def lazy(kernel, thresholds, steps):
    shape, levels = thresholds.shape[1:], len(thresholds)
    ends = np.full((1, np.prod(shape)), np.inf, thresholds.dtype)
    bounds = np.concatenate([-ends, thresholds.reshape(levels, -1), ends])
    bounds, steps = constant(bounds), constant(steps.reshape(levels + 1, -1))
    # Nothing holds at first: an interval from infinity up.
    value, low, high = constant(steps[0]), constant(ends[0]), constant(ends[0])

    @compiled
    def left(u, c, low, high):
        return tf.logical_or(u > c * high, tf.logical_not(u > c * low))

    def select(u, c):
        u = tf.reshape(u, [-1])
        where = tf.where(left(u, c, low.read_value(), high.read_value()))
        lever = tf.gather_nd(u, where)
        walls = tf.gather(bounds, where[:, 0], axis=1)
        step = tf.reduce_sum(tf.cast(lever > c * walls[1:-1], tf.int32), 0)
        at = tf.stack([step, tf.range(tf.size(step))], 1)
        reached = tf.gather_nd(tf.gather(steps, where[:, 0], axis=1), at)
        done = [
            value.scatter_nd_update(where, reached),
            low.scatter_nd_update(where, tf.gather_nd(walls, at)),
            high.scatter_nd_update(where, tf.gather_nd(walls[1:], at)),
        ]
        with tf.control_dependencies(done):
            return tf.reshape(value.read_value(), shape)

    return select


def k_lines(kernel, thresholds, steps):
    bank, scores = constant(np.asarray(kernel.bank())), constant(kernel.initial.scores())

    @compiled
    def select(u, c, bank, scores):
        return lookup(bank, greedy_index(c * scores + bank * u[..., None]))

    return lambda u, c: select(u, c, bank.read_value(), scores.read_value())


ALTERNATIVES = {
    "staircase": staircase,
    "staircase by rows": by_rows,
    "binary search": binary_search,
    "sparse tail": sparse_tail,
    "lazy": lazy,
    "K lines": k_lines,
    "lever itself": lambda *_: lambda u, c: tf.identity(u),
}


def replace(model, alternative):
    """Makes the layers of the model select by that alternative."""
    for layer in model.layers:
        kernel = getattr(layer, "_slot_kernel", None)
        if kernel is not None:
            arrays = np.asarray(kernel._thresholds), np.asarray(kernel._steps)
            kernel.select = selecting(kernel, ALTERNATIVES[alternative](kernel, *arrays))
    return model


def selecting(kernel, select):
    @tf.custom_gradient
    def straight_through(u, c):
        return select(u, c), lambda upstream: (upstream, tf.zeros_like(c))

    (_, lever), (_, decay) = kernel.trained()
    return lambda training: straight_through(
        tf.convert_to_tensor(lever), tf.convert_to_tensor(decay)
    )


def check(model, expected, differing=0.0):
    """Fails when more than that share of a kernel differs from the library's at random levers."""
    rng = np.random.default_rng(0)
    for layer, other in zip(model.layers, expected.layers, strict=True):
        if not hasattr(layer, "lever"):
            continue
        for _ in range(3):
            lever = rng.normal(0, 3 * float(np.abs(other.bank).mean()), layer.lever.shape)
            layer.lever.assign(lever)
            other.lever.assign(lever)
            ours, theirs = (
                np.asarray(one._slot_kernel.select(training=True)) for one in (layer, other)
            )
            if np.mean(ours != theirs) > differing:
                raise SystemExit(f"{np.mean(ours != theirs):.2%} of a kernel differ")
        layer.lever.assign(np.zeros(layer.lever.shape))
        other.lever.assign(np.zeros(layer.lever.shape))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="lenet300100", choices=networks.NAMES)
    parser.add_argument("--num-values", default="8,64", help="values of K")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20, help="steps a round")
    parser.add_argument("--machine", help="its description in FILE")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    args = parser.parse_args()
    plain = networks.plain_network(args.network)
    rows = []
    for k in map(int, args.num_values.split(",")):
        models = {"plain": plain}
        for name in ALTERNATIVES:
            own, expected = (
                slotify(plain, num_values=k, score_mode="per_connection", seed=1) for _ in range(2)
            )
            models[name] = replace(own, name)
            if name != "lever itself":
                check(models[name], expected, 1e-3 if name == "K lines" else 0.0)
        runs = {
            name: step_time.trainer(networks.compiled(model), args.batch_size, args.steps)
            for name, model in models.items()
        }
        found = record.side_by_side(runs, args.steps, args.rounds)
        record.print_rows(f"{args.network}, K = {k}", found)
        rows += [{"network": args.network, "num_values": k, **row} for row in found]
    if args.out:
        record.write(args.out, rows, args.machine)


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    main()
