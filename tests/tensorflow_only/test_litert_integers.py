"""LiteRT files in integers: the weights in them, read by the real interpreter, are the integers of the banks."""

import contextlib

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import keras_slots
from comparisons import numpy_of
from keras_slots import SlotDense, StratifiedUniform, export_selected

IMAGE = (8, 8, 4)


def slots(bits=8, **arguments):
    bank = StratifiedUniform(1.5, bits=bits)
    return {"num_values": 3, "score_mode": "nearest", "bank_initializer": bank, **arguments}


def conv(filters=6, size=3, **arguments):
    return keras_slots.SlotConv2D(filters, size, **slots(**arguments))


def dense(units=5, **arguments):
    return SlotDense(units, **slots(**arguments))


def model_of(shape, *parts):
    """A model of these layers, with biases and normalizations that are not trivial."""
    x = inputs = keras.Input(shape, name="x")
    for part in parts:
        if isinstance(part, layers.Layer):
            part = part.from_config(part.get_config())  # its own, with a seed of this test
        x = part(x)
    model = keras.Model(inputs, x)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(0, 0.2, layer.bias.shape))
        if isinstance(layer, layers.BatchNormalization):
            signs = np.resize([1, -1, 0.5], layer.gamma.shape)
            size = (4, *layer.gamma.shape)
            gamma, beta, mean, variance = rng.uniform(0.5, 1.5, size) * [[1], [0.2], [0.2], [1]]
            layer.set_weights([gamma * signs, beta, mean, variance])
    return model


def samples(model, count=100):
    return np.random.default_rng(1).normal(size=(count, *model.input_shape[1:])).astype("float32")


def export(model, path, data=None, **arguments):
    """The interpreter of the file in integers."""
    data = samples(model) if data is None else data
    path = export_selected(model, path, format="litert", calibration_data=data, **arguments)
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    return interpreter


def weights(interpreter):
    """Integers and scales of eight-bit tensors without a zero point, the scales along their axis."""
    found = []
    for details in interpreter.get_tensor_details():
        quantization = details["quantization_parameters"]
        if details["dtype"] != np.int8 or quantization["zero_points"].any() or not len(details["shape"]):
            continue
        shape = np.ones(len(details["shape"]), int)
        shape[quantization["quantized_dimension"]] = -1
        with contextlib.suppress(ValueError):  # not of a constant, and without memory of its own
            found.append((interpreter.get_tensor(details["index"]), quantization["scales"].reshape(shape)))
    return found


def run(interpreter, x):
    """The outputs, as numbers, for inputs that are numbers."""
    (given,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert given["dtype"] == out["dtype"] == np.int8
    scale, zero = given["quantization"]
    integers = np.clip(np.rint(x / scale) + zero, -128, 127).astype("int8")
    (y,) = interpreter.get_signature_runner("serving_default")(x=integers).values()
    scale, zero = out["quantization"]
    return (y.astype("float32") - zero) * scale


#: How LiteRT stores the kernel of a layer; attention has kernels (in, heads, size) and (heads, size, out).
LAYOUTS = {
    **dict.fromkeys(("SlotDense", "SlotEinsumDense", "SlotSimpleRNN", "SlotLSTM", "SlotGRU"), lambda w: w.T),
    "SlotConv1D": lambda w: w.transpose(2, 0, 1)[:, None],
    "SlotConv2D": lambda w: w.transpose(3, 0, 1, 2),
    "SlotConv1DTranspose": lambda w: w.transpose(1, 0, 2)[:, None],
    "SlotConv2DTranspose": lambda w: w.transpose(2, 0, 1, 3),
    "SlotDepthwiseConv1D": lambda w: w.reshape(1, 1, len(w), -1),
    "SlotDepthwiseConv2D": lambda w: w.reshape(1, *w.shape[:2], -1),
    "pointwise 1D": lambda w: w.transpose(2, 0, 1)[:, None],
    "pointwise 2D": lambda w: w.transpose(3, 0, 1, 2),
    "attention_output": lambda w: w.reshape(-1, w.shape[-1]).T,
    "projection": lambda w: w.reshape(len(w), -1).T,
}


def stored(layer, name, kernel):
    """The values of a kernel as LiteRT stores them."""
    values, kind = numpy_of(kernel.select()), type(layer).__name__
    if "Separable" in kind:
        kind = f"{'SlotDepthwiseConv' if 'depthwise' in name else 'pointwise '}{kind[-2:]}"
    if "Attention" in kind:
        kind = "attention_output" if "output" in name else "projection"
    return LAYOUTS[kind](values)


def kernels(model):
    """The values of each slot kernel as LiteRT stores them, and the number that the integers are times."""
    found = []
    for layer in model.layers:
        for name, kernel in getattr(layer, "slot_kernels", {}).items():
            source, k = kernel.bank_initializer, kernel.num_values
            positions = k * 2 ** int(np.log2(2 ** (source.bits - 1) // k))
            bound = np.float32(source.scale * np.sqrt(6 / sum(kernel.initial.fans)))
            found.append((stored(layer, name, kernel), np.float32(float(bound) / positions)))
    return found


def two_alike(x):
    """Two layers of equal kernels."""
    return layers.Add()([dense(seed=1)(x), dense(seed=1)(x)])


def one_twice(x):
    """One layer whose two calls have inputs of different sizes, so that their biases differ."""
    layer = dense(20)
    return layer(layers.ReLU()(layer(x)))


#: Networks without batch normalization.
NETWORKS = {
    **{f"dense K={k}": ((20,), dense(num_values=k)) for k in (1, 2, 3, 8, 128)},
    "dense 4 bits": ((20,), dense(bits=4)),
    "dense 5 bits": ((20,), dense(bits=5, num_values=16)),
    "dense one": ((1,), dense(3, seed=1), dense(3, seed=2), SlotDense(1, **slots())),
    "dense without bias": ((20,), dense(use_bias=False, activation="relu"), dense(use_bias=False)),
    "dense per position": ((6, 4), dense()),
    "dense shared values": ((20,), dense(sharing="layer")),
    "dense per value": ((20,), dense(score_mode="per_value"), dense(score_mode="per_connection")),
    "einsum": ((6, 4), keras_slots.SlotEinsumDense("abc,cd->abd", output_shape=(None, 8), **slots())),
    "conv": (IMAGE, conv(padding="same", activation="relu"), conv(strides=2), layers.Flatten(), dense()),
    "conv dilation": (IMAGE, conv(dilation_rate=2, padding="same")),
    "conv groups": (IMAGE, conv(groups=2)),
    "conv transpose": (IMAGE, keras_slots.SlotConv2DTranspose(5, 3, strides=2, **slots())),
    "depthwise": (IMAGE, keras_slots.SlotDepthwiseConv2D(3, depth_multiplier=3, padding="same", **slots())),
    "separable": (IMAGE, keras_slots.SlotSeparableConv2D(6, 3, activation="relu", **slots())),
    "sequence": (
        (12, 3),
        keras_slots.SlotConv1D(4, 3, padding="causal", activation="relu", **slots()),
        keras_slots.SlotDepthwiseConv1D(3, depth_multiplier=2, **slots()),
        keras_slots.SlotSeparableConv1D(4, 3, **slots()),
        layers.GlobalAveragePooling1D(),
    ),
    "sequence transpose": ((6, 3), keras_slots.SlotConv1DTranspose(4, 3, strides=2, **slots())),
    "recurrent": (
        (4, 2),
        keras_slots.SlotSimpleRNN(3, unroll=True, return_sequences=True, **slots()),
        keras_slots.SlotGRU(4, unroll=True, return_sequences=True, **slots()),
        keras_slots.SlotLSTM(5, unroll=True, **slots()),
    ),
    "attention": ((5, 4), lambda x: keras_slots.SlotMultiHeadAttention(2, 4, **slots())(x, x)),
    "group query attention": ((5, 4), lambda x: keras_slots.SlotGroupQueryAttention(4, 4, 2, **slots())(x, x)),
    "alike": ((20,), two_alike),
    "twice": ((20,), one_twice),
    "pools": (IMAGE, conv(activation="relu6"), layers.MaxPooling2D(), layers.Flatten(), dense(), layers.Softmax()),
}


@pytest.mark.quick(
    "dense K=3", "dense 4 bits", "dense one", "conv", "depthwise", "separable", "twice", "attention"
)
@pytest.mark.parametrize("name", NETWORKS)
def test_export_selected_in_integers_holds_the_integers_of_the_bank_and_their_unit(tmp_path, name):
    model = model_of(*NETWORKS[name])
    interpreter = export(model, tmp_path / "model")  # a warning is an error here
    held = weights(interpreter)
    expected = kernels(model)
    assert expected
    for values, unit in expected:
        integers = np.rint(values / unit)
        assert (integers * unit == values).all()
        fits = [x for x, scales in held if x.shape == values.shape and (x * scales == values).all()]
        assert any((x == integers).all() for x in fits), [(x.shape, scales.shape) for x, scales in held]
    x = samples(model)
    y, z = run(interpreter, x), numpy_of(model(x, training=False))
    # A step of eight bits is 0.4 % of the range.
    assert np.abs(y - z).max() < 0.05 * np.ptp(z)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("kind", ["SlotConv2D", "SlotDepthwiseConv2D", "SlotSeparableConv2D", "SlotDense"])
def test_export_selected_in_integers_holds_them_where_a_batch_norm_is_folded_in(tmp_path, kind):
    shape = (20,) if kind == "SlotDense" else IMAGE
    size = {"SlotDense": (6,), "SlotDepthwiseConv2D": (3,)}.get(kind, (6, 3))
    layer = getattr(keras_slots, kind)(*size, **slots())
    model = model_of(shape, layer, layers.BatchNormalization(), layers.ReLU(), layers.Flatten(), dense(3))
    norm = model.layers[2]
    gains = numpy_of(norm.gamma).copy()
    gains[-1] = 0  # a channel that pruning took away
    norm.gamma.assign(gains)
    interpreter = export(model, tmp_path / "model")
    values, unit = kernels(model)[-2]
    gains = gains / np.sqrt(numpy_of(norm.moving_variance) + norm.epsilon)
    along = (1, 1, 1, -1) if kind == "SlotDepthwiseConv2D" else (-1, *[1] * (values.ndim - 1))
    expected = np.rint(values / unit) * np.sign(gains).reshape(along)
    fits = [scales for x, scales in weights(interpreter) if x.shape == expected.shape and (x == expected).all()]
    assert len(fits) == 1
    np.testing.assert_allclose(fits[0].ravel()[:-1], (unit * np.abs(gains))[:-1], rtol=2e-6)
    x = samples(model)
    y, z = run(interpreter, x), numpy_of(model(x, training=False))
    assert np.abs(y - z).max() < 0.05 * np.ptp(z)


def test_export_selected_in_integers_computes_what_its_integers_say(tmp_path):
    model = model_of((300,), dense(10))
    interpreter = export(model, tmp_path / "model")
    ((values, unit),) = kernels(model)
    (given,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    x = np.random.default_rng(2).integers(-128, 128, (50, 300), "int8")
    (y,) = interpreter.get_signature_runner("serving_default")(x=x).values()
    (scale, zero), (out_scale, out_zero) = given["quantization"], out["quantization"]
    scale *= float(unit)
    sums = (x.astype("int64") - zero) @ np.rint(values / unit).astype("int64").T
    sums += np.rint(numpy_of(model.layers[1].bias) / scale).astype("int64")
    expected = np.clip(np.rint(sums * (scale / out_scale)) + out_zero, -128, 127)
    assert np.ptp(expected) > 200
    assert np.abs(y - expected).max() <= 1
    assert (y == expected).mean() > 0.95


def test_export_selected_in_integers_rounds_kernels_of_other_banks_as_the_converter_does(tmp_path):
    model = model_of((20,), SlotDense(6, num_values=3), dense(4), layers.Dense(5))
    held = weights(export(model, tmp_path / "model"))
    for layer in (model.layers[1], model.layers[3]):
        kernel = numpy_of(layer.kernel).T
        scales = np.abs(kernel).max(axis=1, keepdims=True) / 127
        ((x, found),) = [(x, found) for x, found in held if x.shape == kernel.shape]
        np.testing.assert_allclose(found, scales, rtol=1e-6)
        assert np.abs(x - kernel / scales).max() <= 0.501
    values = numpy_of(model.layers[2].kernel).T
    assert any(x.shape == values.shape and (x * scales == values).all() for x, scales in held)


def test_export_selected_in_integers_warns_of_an_integer_bank_that_is_rounded(tmp_path):
    inputs = keras.Input((5,), dtype="int32", name="x")
    table = keras_slots.SlotEmbedding(20, 4, name="table", **slots())
    model = keras.Model(inputs, dense(3)(layers.Flatten()(table(inputs))))
    tokens = np.random.default_rng(0).integers(0, 20, (50, 5))
    with pytest.warns(UserWarning, match=r"The weights of \['table/embeddings'\] are rounded") as caught:
        interpreter = export(model, tmp_path / "model", tokens)
    (warning,) = [x for x in caught if x.category is UserWarning]
    assert warning.filename == __file__
    (given,) = interpreter.get_input_details()
    assert given["dtype"] == np.int32
    (y,) = interpreter.get_signature_runner("serving_default")(x=tokens.astype("int32")).values()
    scale, zero = interpreter.get_output_details()[0]["quantization"]
    z = numpy_of(model(tokens))
    assert np.abs((y.astype("float32") - zero) * scale - z).max() < 0.05 * np.ptp(z)


@pytest.mark.parametrize(
    ("shape", "layer", "operation"),
    [
        ((4, 4, 4, 2), keras_slots.SlotConv3D(3, 2, **slots()), "CONV_3D"),
        ((6,), dense(4, activation="elu"), "ELU"),
    ],
    ids=["conv3d", "elu"],
)
def test_export_selected_in_integers_refuses_what_litert_computes_in_floats(tmp_path, shape, layer, operation):
    model = model_of(shape, layer)
    with pytest.raises(ValueError, match=rf"operations that LiteRT has.*\['{operation}'\].*`calibration_data`"):
        export(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    export_selected(model, tmp_path / "model", format="litert")


@pytest.mark.parametrize("kind", ["dictionary", "list"])
def test_export_selected_in_integers_takes_several_inputs_in_the_structure_of_the_model(tmp_path, kind):
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    y = layers.Add()([dense(4)(a), dense(4)(b)])
    rng = np.random.default_rng(0)
    data = {"a": rng.normal(size=(80, 3)), "b": 9 * rng.normal(size=(80, 2))}
    structures = {"dictionary": ({"a": a, "b": b}, data), "list": ([b, a], [data["b"], data["a"]])}
    inputs, x = structures[kind]
    model = keras.Model(inputs, y)
    interpreter = export(model, tmp_path / "model", x)
    ranges = {}
    for name, details in interpreter.get_signature_runner("serving_default").get_input_details().items():
        scale, zero = details["quantization"]
        ranges[name] = [(-128 - zero) * scale, (127 - zero) * scale]
    for name, x in data.items():
        np.testing.assert_allclose(ranges[name], [x.min(), x.max()], atol=0.02 * np.ptp(x))
    for wrong in ({"a": data["a"]}, data["a"], (data["a"], data["b"])):
        with pytest.raises(ValueError, match="`calibration_data` must be arrays in the structure of the inputs"):
            export(model, tmp_path / "other", wrong)
    with pytest.raises(
        ValueError, match=r"`calibration_data` must have as many rows for each input. Received: .*'b': 79"
    ):
        export(
            model,
            tmp_path / "other",
            keras.tree.map_structure(lambda part: part[part.shape[1] % 2 == 0 :], structures[kind][1]),
        )
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


WRONG_DATA = {
    "shape": (np.ones((2, 3)), r".*of shape \(n, 20\). Received: shape \(2, 3\)"),
    "no batch": (np.ones(20), r".*of shape \(n, 20\). Received: shape \(20,\)"),
    "one number": (np.float32(1), r".*of shape \(n, 20\)"),
    "empty": (np.ones((0, 20)), r".*of shape \(n, 20\). Received: shape \(0, 20\)"),
    "text": (np.full((2, 20), "a"), ".*dtype <U1"),
    "uneven rows": ([[1.0], [1.0, 2.0]], ".*dtype object"),
    "nan": (np.full((2, 20), np.nan), "finite"),
    "infinity": (np.full((2, 20), -np.inf), "finite"),
    "beyond float32": (np.full((2, 20), 1e39), "finite"),
}


@pytest.mark.parametrize("what", WRONG_DATA)
@pytest.mark.parametrize("format", ["litert", "c"])
def test_export_selected_refuses_calibration_data_that_are_no_inputs(tmp_path, format, what):
    data, says = WRONG_DATA[what]
    with pytest.raises(ValueError, match=f"`calibration_data` must be {says}"):
        export_selected(model_of((20,), dense()), tmp_path / "net.h", format=format, calibration_data=data)
    assert list(tmp_path.iterdir()) == []


def test_export_selected_in_integers_writes_each_weight_once(tmp_path):
    model = model_of((784,), dense(300, activation="relu"), dense(100, activation="relu"), dense(10))
    export(model, tmp_path / "model", samples(model, 5))
    count = 784 * 300 + 300 * 100 + 100 * 10
    assert count < (tmp_path / "model").stat().st_size < 1.01 * count + 12_000
