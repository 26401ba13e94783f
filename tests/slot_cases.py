"""One case for each slot layer, shared by the tests."""

import keras
import numpy as np

import keras_slots

#: Slot class, positional arguments, further arguments, shape of an input.
CASES = {
    "dense": (keras_slots.SlotDense, (), {"units": 4}, (3, 5)),
    "dense_3d": (keras_slots.SlotDense, (), {"units": 4, "use_bias": False}, (2, 3, 5)),
    "conv1d_causal": (keras_slots.SlotConv1D, (4, 3), {"padding": "causal"}, (2, 7, 3)),
    "conv1d_dilated": (keras_slots.SlotConv1D, (4, 3), {"dilation_rate": 2}, (2, 9, 3)),
    "conv2d": (keras_slots.SlotConv2D, (4, 3), {"strides": 2, "padding": "same"}, (2, 6, 6, 3)),
    "conv2d_dilated": (keras_slots.SlotConv2D, (4, 3), {"dilation_rate": (1, 2)}, (2, 6, 7, 3)),
    "conv2d_groups": (keras_slots.SlotConv2D, (4, 3), {"groups": 2}, (2, 6, 6, 4)),
    "conv3d": (keras_slots.SlotConv3D, (4, 2), {"activation": "tanh"}, (1, 4, 4, 4, 3)),
    "conv2d_transpose": (
        keras_slots.SlotConv2DTranspose,
        (4, 3),
        {"strides": 2, "padding": "same"},
        (2, 4, 4, 3),
    ),
    "conv1d_transpose": (keras_slots.SlotConv1DTranspose, (4, 3), {"strides": 2}, (2, 4, 3)),
    "conv3d_transpose": (
        keras_slots.SlotConv3DTranspose,
        (2, 2),
        {"strides": 2, "padding": "same"},
        (1, 3, 3, 3, 2),
    ),
    "depthwise": (keras_slots.SlotDepthwiseConv2D, (3,), {"depth_multiplier": 2}, (2, 6, 6, 3)),
    "depthwise1d": (keras_slots.SlotDepthwiseConv1D, (3,), {"strides": 2}, (2, 7, 3)),
    "separable1d": (keras_slots.SlotSeparableConv1D, (4, 3), {"padding": "same"}, (2, 7, 3)),
    "separable": (
        keras_slots.SlotSeparableConv2D,
        (4, 3),
        {"depth_multiplier": 2, "activation": "tanh"},
        (2, 6, 6, 3),
    ),
    "einsum": (
        keras_slots.SlotEinsumDense,
        ("abc,cde->abde",),
        {"output_shape": (None, 2, 3), "bias_axes": "de"},
        (2, 3, 4),
    ),
}
NAMES = tuple(CASES)
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
SLOT_ARGUMENTS = (
    "num_values",
    "selection",
    "score_mode",
    "bank_initializer",
    "score_initializer",
    "sharing",
    "move_regularizer",
    "seed",
)


def case(name, **slot_arguments):
    """The built slot layer of a case, with a bias that is not zero, and an input."""
    cls, arguments, keywords, shape = CASES[name]
    x = np.random.default_rng(7).normal(size=shape).astype("float32")
    layer = cls(*arguments, **{**keywords, "seed": 3, **slot_arguments})
    layer.build(shape)
    if layer.bias is not None:
        bias = np.random.default_rng(8).normal(size=layer.bias.shape)
        layer.bias.assign(bias)
    return layer, x


def plain_twin(layer, x, kernels=None):
    """The Keras layer of the same arguments, given the kernels (by name) and the bias of the slot layer."""
    config = layer.get_config()
    for argument in SLOT_ARGUMENTS:
        del config[argument]
    plain = layer.plain_class.from_config(config)
    plain.build(x.shape)
    for name, kernel in layer.slot_kernels.items():
        getattr(plain, name).assign(kernel.select() if kernels is None else kernels[name])
    if layer.bias is not None:
        plain.bias.assign(np.array(numpy_of(layer.bias)))
    return plain


def greedy_kernel(bank, scores):
    """NumPy reference of the greedy selection."""
    bank, scores = np.asarray(bank), np.asarray(scores)
    bank = np.broadcast_to(bank, scores.shape)
    return np.take_along_axis(bank, scores.argmax(-1)[..., None], -1)[..., 0]


def bank_variable(layer):
    """What holds the bank of a layer with scores, for tests that choose it."""
    (variable,) = (v for v in layer.variables if v.name == "bank")
    return variable


def numpy_of(tensor):
    return keras.ops.convert_to_numpy(tensor)


def gradients(layer, x, upstream, mode, by_id=False):
    """Output, and the gradient of sum(output * upstream) for each trainable variable, by name or by `id`.

    `x` is the input of the layer, or a tuple of its inputs.
    """
    run = _tensorflow_gradients if ON_TENSORFLOW else _jax_gradients
    y, values = run(layer, x if isinstance(x, tuple) else (x,), upstream, mode)
    paths = [v.path.removeprefix(f"{layer.path}/") for v in layer.trainable_variables]
    # "kernel/scores" is "scores" in layers with one kernel.
    names = [path.removeprefix("kernel/") for path in paths]
    keys = [id(v) for v in layer.trainable_variables] if by_id else names
    values = [None if g is None else numpy_of(g) for g in values]
    return numpy_of(y), dict(zip(keys, values, strict=True))


def _tensorflow_gradients(layer, inputs, upstream, mode):
    import tensorflow as tf

    def function(inputs, upstream):
        with tf.GradientTape() as tape:
            y = layer(*inputs, training=True)
            total = tf.reduce_sum(y * tf.cast(upstream, y.dtype))
        return y, tape.gradient(total, [v.value for v in layer.trainable_variables])

    if mode != "eager":
        function = tf.function(function, jit_compile=mode == "xla")
    return function(tuple(map(tf.constant, inputs)), tf.constant(upstream))


def _jax_gradients(layer, inputs, upstream, mode):
    import jax

    training = {"training": True} if hasattr(layer, "num_values") else {}
    fixed = [(v, v.value) for v in layer.non_trainable_variables]

    def total(trainable):
        moved = zip(layer.trainable_variables, trainable, strict=True)
        # Not `stateless_call` of a layer, which casts nothing to the compute dtype.
        with keras.StatelessScope(state_mapping=[*moved, *fixed]):
            y = layer(*inputs, **training)
        return (y * upstream.astype(y.dtype)).sum(), y

    function = jax.grad(total, has_aux=True)
    if mode != "eager":
        function = jax.jit(function)
    values, y = function([v.value for v in layer.trainable_variables])
    return y, values


def small_model(seed=0, selection="greedy", num_values=4, **slot_arguments):
    """Functional: convolution, batch norm, dense; 6x6x2 images, three classes."""
    x = inputs = keras.Input((6, 6, 2))
    arguments = {"num_values": num_values, "selection": selection, **slot_arguments}
    x = keras_slots.SlotConv2D(4, 3, seed=seed, name="conv", **arguments)(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Flatten()(x)
    outputs = keras_slots.SlotDense(3, seed=seed + 1, name="logits", **arguments)(x)
    return keras.Model(inputs, outputs, name="small")


def small_data(count=64, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 6, 6, 2)).astype("float32")
    return x, rng.integers(0, 3, count)


def compiled_model(model, optimizer=None, **arguments):
    model.compile(
        optimizer=optimizer or keras.optimizers.SGD(0.1, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **arguments,
    )
    return model


def weights_of(model):
    return {v.path: numpy_of(v) for v in model.variables}


def assert_same_weights(first, second):
    # In order, because the paths of seed generators are numbered.
    for old, new in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(numpy_of(new), numpy_of(old), err_msg=old.path)


def two_replicas():
    """A MirroredStrategy on two logical CPU devices (TensorFlow only)."""
    import tensorflow as tf

    # TensorFlow's collective mixes up the strategies of one process (docs/devices.md).
    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=reduction)


def give_two_replicas(monkeypatch):
    """Code that makes its own MirroredStrategy gets `two_replicas` (TensorFlow only)."""
    import tensorflow as tf

    strategy = two_replicas()
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: strategy)
