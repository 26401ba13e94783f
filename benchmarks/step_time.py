"""Time of a training step of the plain network and of slot networks, in one process.

    python benchmarks/step_time.py --networks lenet300100,conv6 --num-values 8,64 --out FILE
    python benchmarks/step_time.py --variants nearest --num-values 8,64,4096
    python benchmarks/step_time.py --predict
    KERAS_BACKEND=jax python benchmarks/step_time.py --device-loop

Each round times a few steps of every network in turn. A ratio is the median over the rounds of (network / first
network) in the same round. A step is what `model.fit` does with a batch: forward, gradient, SGD with momentum.
`--predict` times inference instead, of the slot networks and of the materialized ones.

`--device-loop`, on JAX, makes all steps of a round one compiled loop over batches on the device, so the
figures contain no Python time. It also measures memory: `state_mb` stays on the device between steps,
`scratch_mb` is what the loop needs in addition, and `peak_mb` is what the device counted (that of one network
if only one runs, as with `--variants per_value --num-values 8`). `limit_milliseconds` is the least time to
move the bytes of the scores of `per_value`, at the copy bandwidth measured in the same process. On a CPU use
this for LeNet only: there the gradient of a convolution takes JAX a hundred times longer in a compiled loop.
"""

import time

import keras
import numpy as np

import networks
import record
from keras_slots import materialize

BATCHES = 4  # that the device loop takes in turn


def batch(model, batch_size):
    """Random images and labels."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch_size, *model.input_shape[1:])).astype("float32")
    return images, rng.integers(0, 10, batch_size)


def trainer(model, args):
    """Returns a function that runs the steps of a round and waits for the last one."""
    networks.compiled(model, args.jit_compile or "auto")
    images, labels = batch(model, args.batch_size)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        model.make_train_function()
        data = tf.data.Dataset.from_tensors((tf.constant(images), tf.constant(labels))).repeat()
        iterator = iter(data)

        def run():
            for _ in range(args.steps):
                logs = model.train_function(iterator)
            np.asarray(logs["loss"])

        return run

    def run():
        for _ in range(args.steps):
            loss = model.train_on_batch(images, labels)
        np.asarray(loss)

    return run


def predictor(model, args):
    """Returns a function that predicts as many batches as a round has steps."""
    networks.compiled(model, args.jit_compile or "auto")
    images = keras.ops.convert_to_tensor(batch(model, args.batch_size)[0])
    return lambda: [model.predict_on_batch(images) for _ in range(args.steps)]


class DeviceLoop:
    """Training steps of one network as a single compiled loop; JAX only."""

    def __init__(self, model, args):
        import jax

        self.steps, self.trained = args.steps, networks.count(model.trainable_variables)
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9)  # deep networks diverge at 0.1
        optimizer.build(model.trainable_variables)
        rng = np.random.default_rng(0)
        shape = (BATCHES, args.batch_size)
        images = jax.device_put(rng.standard_normal((*shape, *model.input_shape[1:]), "float32"))
        self.data = images, jax.device_put(rng.integers(0, 10, shape))
        groups = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
        # Copies, because each call donates the state.
        self.state = tuple([jax.numpy.copy(v.value) for v in group] for group in groups)
        loop = jax.jit(self.loop(model, optimizer), donate_argnums=0)
        start = time.perf_counter()
        self.compiled = loop.lower(self.state, *self.data).compile()
        self.compile_seconds = time.perf_counter() - start

    def loop(self, model, optimizer):
        import jax

        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

        def forward(trained, other, x, y):
            outputs, other = model.stateless_call(trained, other, x, training=True)
            return loss(y, outputs), other

        def step(state, x, y):
            trained, other, moments = state
            gradient = jax.value_and_grad(forward, has_aux=True)
            (value, other), gradients = gradient(trained, other, x, y)
            trained, moments = optimizer.stateless_apply(moments, gradients, trained)
            return (trained, other, moments), value

        def run(state, images, labels):
            turns = jax.numpy.arange(self.steps) % BATCHES
            return jax.lax.scan(lambda s, i: step(s, images[i], labels[i]), state, turns)

        return run

    def __call__(self):
        self.state, losses = self.compiled(self.state, *self.data)
        if not np.isfinite(float(losses[-1])):
            raise SystemExit(f"step_time.py: error: the loss is {losses[-1]}")

    def memory(self):
        """Megabytes of the state, and of what the compiled loop needs in addition."""
        scratch = self.compiled.memory_analysis().temp_size_in_bytes
        state = sum(array.nbytes for group in self.state for array in group)
        return {"state_mb": state / 1e6, "scratch_mb": scratch / 1e6}


def copy_bandwidth(megabytes, repeats=20):
    """Bytes read and written per second by a compiled pass over a large array."""
    import jax

    # XLA would elide a plain copy. The array is donated, so that no call waits for fresh memory.
    negate = jax.jit(lambda array: -array, donate_argnums=0)
    array = negate(jax.numpy.ones(megabytes * 250_000, "float32")).block_until_ready()
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeats):
            array = negate(array)
        array.block_until_ready()
        best = min(best, (time.perf_counter() - start) / repeats)
    return 2 * array.nbytes / best


def device_figures(loops, rows, names, bandwidth):
    """Adds memory, and for `per_value` the least time to move its bytes, to the rows of device loops."""
    for row in rows:
        loop = loops[row["variant"]]
        row |= {"compile_seconds": round(loop.compile_seconds, 1), **loop.memory()}
        if bandwidth and names[row["variant"]][0] == "per_value":
            # Forward reads scores and bank; the update reads bank, momentum and scores, and writes
            # momentum and scores: seven float32 numbers a score, however well it is compiled.
            row["limit_milliseconds"] = limit = 1e3 * 28 * loop.trained / bandwidth
            row["added_over_limit"] = (row["milliseconds"] - rows[0]["milliseconds"]) / limit


def measure(name, args, bandwidth):
    """Rows of one network."""
    maker = DeviceLoop if args.device_loop else predictor if args.predict else trainer
    labels, runs, plain_forms = networks.labels(args.variants, args.num_values), {}, {}
    for label, (variant, num_values) in labels.items():
        model = networks.make(name, variant, num_values)
        runs[label] = maker(model, args)
        if args.predict and variant != "plain":
            plain_forms[f"materialized {label}"] = maker(materialize(model), args)
    rows = record.side_by_side(runs | plain_forms, args.steps, args.rounds)
    columns = {"ms": "{milliseconds:.3f}", "ratio": "{ratio:.2f}", "CPU ratio": "{cpu_ratio:.2f}"}
    columns["middle half"] = "{spread[0]:.2f} to {spread[1]:.2f}"
    if args.device_loop:
        device_figures(runs, rows, labels, bandwidth)
        columns |= {"state MB": "{state_mb:.1f}", "scratch MB": "{scratch_mb:.1f}"}
    what = "predict" if args.predict else "step"
    record.print_head(f"{name}, {what}", columns)
    for row in rows:
        record.print_row(row, columns)
    return [{"network": name, "what": what, **row} for row in rows]


def parse(argv=None):
    parser = networks.parser(
        __doc__, networks="lenet300100", variants="plain,per_connection,per_value", num_values="8,64"
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20, help="steps per round")
    parser.add_argument("--jit-compile", action="store_true", help="XLA for the whole step")
    parser.add_argument("--predict", action="store_true", help="time inference")
    parser.add_argument("--device-loop", action="store_true", help="make a round one compiled loop")
    parser.add_argument("--copy-mb", type=int, default=2000, help="size of array to copy; 0: none")
    args = parser.parse_args(argv)
    if args.device_loop and keras.backend.backend() != "jax":
        parser.error("--device-loop needs JAX: set KERAS_BACKEND=jax")
    if args.device_loop and args.predict:
        parser.error("--device-loop trains; leave --predict out")
    return args


def main(argv=None):
    args = parse(argv)
    more, bandwidth = {}, None
    if args.device_loop and args.copy_mb:
        bandwidth = copy_bandwidth(args.copy_mb)
        more["copy_gb_per_second"] = bandwidth / 1e9
    rows = [row for name in args.networks for row in measure(name, args, bandwidth)]
    if args.device_loop:
        import jax

        device = jax.devices()[0]
        counted = (device.memory_stats() or {}).get("peak_bytes_in_use")
        more["device"] = f"{device.device_kind} ({device.platform})"
        more["peak_mb"] = counted and counted / 1e6
    record.write(args, rows, **more)


if __name__ == "__main__":
    main()
