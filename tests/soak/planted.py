"""The bugs that `mutants.py` plants: of kinds that reviews of Keras layers find."""

from dataclasses import dataclass

BACKENDS = ("tensorflow", "jax")


@dataclass(frozen=True)
class Mutant:
    """A planted bug.

    Attributes:
        name: What is wrong.
        file: File below `keras_slots/`.
        old: Text that is there once.
        new: What takes its place.
        tests: Arguments of pytest: where it must be noticed.
        backends: On which backends it is planted: a file of one backend has nothing to say on the other.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str
    backends: tuple[str, ...] = BACKENDS

    def planted(self, text):
        """The text of the file with the bug; refuses a patch that fits nowhere, or twice."""
        if text.count(self.old) != 1:
            raise SystemExit(
                f"mutant '{self.name}': the old text is {text.count(self.old)} times in {self.file}, not once"
            )
        return text.replace(self.old, self.new)


def of(*names):
    """Arguments of pytest: whole test files."""
    return " ".join(f"tests/test_{name}.py" for name in names)


def one(name, words):
    """Arguments of pytest: the tests of a file whose name holds the words."""
    return f"tests/test_{name}.py -k '{words}'"


def contract(rows="dense", check=""):
    """Arguments of pytest: the rows of the contract whose name holds the words."""
    return f"tests/test_contract.py -k '{rows} and contract{check and f' and {check}'}'"


M = Mutant
MUTANTS = (
    # Seeds and random numbers.
    M(
        "seed left out of the configuration",
        "slot_layer.py",
        "seed=self.seed,\n        )\n        return config",
        "seed=None,\n        )\n        return config",
        contract("dense", "config"),
    ),
    M(
        "drawn seed left out of the build configuration",
        "slot_layer.py",
        'return config and {**config, "seed": self._seed}',
        "return config",
        "tests/test_slots.py -k 'saved_and_loaded'",
    ),
    M(
        "the second kernel takes the seed of the first",
        "slot_layer.py",
        "seed=self._seed if first else derive_seed(self._seed, argument),",
        "seed=self._seed,",
        contract("separable2d", "seed"),
    ),
    M(
        "bank and scores from one stream",
        "random_streams.py",
        "SCORE_STREAM = 1",
        "SCORE_STREAM = 0",
        contract("dense", "seed"),
    ),
    M(
        "the last block of random words is the first",
        "random_streams.py",
        "counter = [block - 1, 0, 0, 0] if block else [2**64 - 1] * 4",
        "counter = [block, 0, 0, 0]",
        of("random_streams"),
    ),
    M(
        "windows of the stream start at their block",
        "random_streams.py",
        "return words[skip : skip + count]",
        "return words[:count]",
        of("random_streams"),
    ),
    M(
        "24 random bits become 23",
        "random_streams.py",
        "words >>= np.uint32(8)\n    out[...]",
        "words >>= np.uint32(9)\n    out[...]",
        of("random_streams"),
    ),
    M(
        "the derived seed does not depend on the name",
        "random_streams.py",
        'f"{check_seed(seed)}/{name}".encode()',
        'f"{check_seed(seed)}".encode()',
        of("random_streams"),
    ),
    M(
        "unseeded layers draw one seed",
        "random_streams.py",
        "return random.getrandbits(63)",
        "return random.Random(0).getrandbits(63)",
        contract("dense", "seed"),
    ),
    M(
        "an unseeded Keras initializer keeps its own randomness",
        "banks.py",
        '"seed" in config and config["seed"] is None',
        "False",
        one("banks", "Keras or unseeded"),
    ),
    M(
        "projections of attention share one seed",
        "layers/attention.py",
        'slots["seed"] = derive_seed(self._seed, plain.name)',
        'slots["seed"] = self._seed',
        of("keras_attention"),
    ),
    M(
        "slotify gives all layers one seed",
        "transforms.py",
        'arguments["seed"] = derive_seed(seed, layer.name) % slot_class.seed_limit',
        'arguments["seed"] = seed',
        one("transforms", "seed_gives_layers"),
    ),
    # Fans and distributions.
    M(
        "fans counted on the shape of the bank",
        "kernel.py",
        "fans=self.fans or compute_fans(kernel_shape),",
        "fans=self.fans or compute_fans((*kernel_shape, self.num_values)),",
        contract("dense", "specification"),
    ),
    M(
        "fan in and fan out exchanged",
        "initializers.py",
        "return shape[-2] * receptive_field, shape[-1] * receptive_field",
        "return shape[-1] * receptive_field, shape[-2] * receptive_field",
        one("initializers", "fans"),
    ),
    M(
        "einsum counts all axes of its kernel as inputs",
        "layers/dense.py",
        "if axis in output:",
        "if False:",
        one("layers", "glorot_bound"),
    ),
    M(
        "glorot with the bound of the paper's text",
        "distributions.py",
        'kind, _variance, _mode = "uniform", 1.0, "fan_avg"',
        'kind, _variance, _mode = "uniform", 1 / 3, "fan_avg"',
        contract("dense", "specification"),
    ),
    M(
        "a seed of the distribution is ignored",
        "distributions.py",
        "seed = seed if self.seed is None else self.seed\n        stream",
        "stream",
        of("distributions"),
    ),
    # Selection.
    M(
        "the last of equal scores wins",
        "selection.py",
        "higher = scores[..., k] > best",
        "higher = scores[..., k] >= best",
        one("selection", "tie"),
    ),
    M(
        "the lowest score wins",
        "selection.py",
        "higher = scores[..., k] > best",
        "higher = scores[..., k] < best",
        contract("dense", "selection"),
    ),
    M(
        "padding of the tournament may win",
        "selection.py",
        "best += [best[-1][..., -1:]]",
        "best += [ops.ones_like(best[-1][..., -1:])]",
        one("selection", "never_takes_padding"),
    ),
    M(
        "the block of the tournament counts one short",
        "selection.py",
        "return block * _RADIX + lookup(within, block)",
        "return block * (_RADIX - 1) + lookup(within, block)",
        one("selection", "numpys_argmax"),
    ),
    M(
        "softmax without the maximum taken off",
        "selection.py",
        "weights = ops.exp(scores - ops.max(scores, axis=-1, keepdims=True))",
        "weights = ops.exp(scores)",
        one("selection", "overflows"),
    ),
    M(
        "a draw of exactly the boundary falls below",
        "selection.py",
        'index = index + ops.cast(passed <= target, "int32")',
        'index = index + ops.cast(passed < target, "int32")',
        one("selection", "ends_of_the_unit or probability_zero"),
    ),
    M(
        "training is greedy",
        "kernel.py",
        "if not training or isinstance(self.rule, Greedy):",
        "if True:",
        contract("dense-probabilistic", "rule"),
    ),
    M(
        "inference draws",
        "kernel.py",
        "if not training or isinstance(self.rule, Greedy):",
        "if isinstance(self.rule, Greedy):",
        contract("dense-probabilistic", "rule"),
    ),
    M(
        "a rule without random numbers is greedy",
        "kernel.py",
        "return self.select_by_rule(*self.draw())",
        "return self.select_by_rule(*self.draw()) if self.random_shape else self.select_greedily()",
        one("rules", "own_in_training"),
    ),
    M(
        "the sampler stands still",
        "sampler.py",
        "self.state.assign(ops.add(self.state, step))",
        "pass",
        contract("dense-probabilistic", "rule"),
    ),
    M(
        "two calls in one pass draw twice",
        "sampler.py",
        "if self._again:",
        "if False:",
        one("strangers_draws", "training_call"),
    ),
    # Gradients.
    M(
        "scores without bank values in their gradient",
        "kernel.py",
        "return upstream[..., None] * bank",
        "return upstream[..., None] * ops.ones_like(bank)",
        contract("dense", "gradient"),
    ),
    M(
        "the gradient reaches the highest value alone",
        "kernel.py",
        "return upstream[..., None] * bank",
        "return upstream[..., None] * bank * ops.cast(bank == ops.max(bank, axis=-1, keepdims=True), bank.dtype)",
        contract("dense", "gradient"),
    ),
    M(
        "the lever gets half of the gradient",
        "lever.py",
        "return upstream, ops.zeros_like(decay)",
        "return upstream / 2, ops.zeros_like(decay)",
        contract("dense-greedy-per_connection", "gradient"),
    ),
    M(
        "the decay learns",
        "lever.py",
        "return upstream, ops.zeros_like(decay)",
        "return upstream, ops.sum(upstream)",
        contract("dense-greedy-per_connection", "gradient"),
    ),
    M(
        "upstream stays in half precision on TensorFlow",
        "backend/tensorflow.py",
        "upstream = tf.cast(tf.convert_to_tensor(upstream), arrays[0].dtype)",
        "upstream = tf.convert_to_tensor(upstream)",
        one("gradients", "half_precision_policy"),
        ("tensorflow",),
    ),
    M(
        "upstream stays in half precision",
        "backend/jax.py",
        "gradients = gradient(upstream.astype(arrays[0].dtype), *arrays)",
        "gradients = gradient(upstream, *arrays)",
        one("gradients", "half_precision_policy"),
        ("jax",),
    ),
    M(
        "no gradient on TensorFlow",
        "backend/tensorflow.py",
        "return forward(*(tf.stop_gradient(x) for x in arrays)), backward",
        "return forward(*arrays), lambda upstream: tuple(None for _ in arrays)",
        contract("dense", "gradient"),
        ("tensorflow",),
    ),
    # Levers.
    M(
        "a threshold itself counts as passed",
        "lever.py",
        "value = ops.where(lever > thresholds[h], steps[h], value)",
        "value = ops.where(lever >= thresholds[h], steps[h], value)",
        one("selection", "climb_by_hand"),
    ),
    M(
        "thresholds do not decay",
        "lever.py",
        "thresholds = decay * ops.convert_to_tensor(thresholds)",
        "thresholds = ops.convert_to_tensor(thresholds)",
        contract("dense-greedy-per_connection", "selection"),
    ),
    M(
        "a decay of zero wipes the scores out",
        "lever.py",
        "return ops.where(decay == 0, ops.ones_like(decay), decay)",
        "return decay",
        one("strangers_optimizers", "initial_scores_without"),
    ),
    M(
        "tall connections end early",
        "lever.py",
        "found = _climb_on(tall_lever, decay * tall_thresholds, found, tall_steps)",
        "found = _climb_on(tall_lever, decay * tall_thresholds[:0], found, tall_steps)",
        one("lever", "never_falls"),
    ),
    M(
        "the staircase is not rebuilt for another seed",
        "lever.py",
        "initial = replace(self.initial, seed=seed)\n        self._assign_staircase(initial)",
        "initial = replace(self.initial, seed=seed)",
        contract("dense-greedy-per_connection", "saving"),
    ),
    M(
        "the origin of levers is not compared",
        "lever.py",
        "check_origin(origin, self.initial, self.path)",
        "pass",
        one("lever", "another_origin"),
    ),
    M(
        "the origin forgets the score initializer",
        "origin.py",
        "serialize(initial.score_initializer),",
        "None,",
        one("bad_input", "files"),
    ),
    M(
        "rounded thresholds go to the nearest number",
        "staircase.py",
        "np.where(rounded > thresholds, lower, rounded)",
        "rounded",
        one("staircase", "float32"),
    ),
    M(
        "unused levels of a staircase hold zeros",
        "staircase.py",
        "self.thresholds[have:, columns] = _largest(held.dtype)",
        "self.thresholds[have:, columns] = 0",
        one("staircase", "nobody_needs or random_levers"),
    ),
    M(
        "a shared bank is drawn anew for each connection",
        "banks.py",
        "stop = 1 if self.shared else self.num_connections",
        "stop = self.num_connections",
        one("layers", "sharing"),
    ),
    # Nearest scores.
    M(
        "ties of the nearest value go up",
        "nearest.py",
        "target > ops.cast(below + above, dtype)",
        "target >= ops.cast(below + above, dtype)",
        one("nearest", "ties"),
    ),
    M(
        "the start of nearest scores is half",
        "scores.py",
        "return bank * start[..., None] - bank * bank / 2.0",
        "return bank * start[..., None] - bank * bank",
        one("nearest_layers", "serve_every_layer"),
    ),
    M(
        "the nearest lever starts at zero",
        "nearest_kernel.py",
        '"lever", shape, initial.start, dtype',
        '"lever", shape, lambda: np.zeros(shape), dtype',
        contract("dense-greedy-nearest", "selection"),
    ),
    M(
        "layers of nearest scores compile one program each",
        "nearest_kernel.py",
        "straight_through(NearestValue(*where), lever_gradient)",
        "straight_through(Strata(*where).nearest, lever_gradient)",
        contract("dense-greedy-nearest", "programs"),
    ),
    M(
        "strata are hashed without the second key",
        "strata.py",
        "return xp.bitwise_xor(mix(counter, xp), words[1])",
        "return mix(counter, xp)",
        one("strata", "documented_hash or golden"),
    ),
    # Saving.
    M(
        "the bank is not saved",
        "kernel.py",
        'return {"scores": self._scores, "bank": self._bank}',
        'return {"scores": self._scores}',
        contract("dense-greedy-per_value", "saving"),
    ),
    M(
        "the state of the sampler is not saved",
        "kernel.py",
        'return {**self.saved_state(), "sampler": self.sampler.state}',
        "return self.saved_state()",
        contract("dense-probabilistic-per_value", "saving"),
    ),
    M(
        "shapes of a file are not compared",
        "kernel.py",
        "if shape != received:",
        "if False:",
        one("saving", "do_not_fit"),
    ),
    M(
        "a layer that refused a file lets its kernel load",
        "slot_layer.py",
        "kernel.owner_refused = not fits",
        "kernel.owner_refused = False",
        one("saving", "do_not_fit"),
    ),
    M(
        "weights keep what they share with a deleted model",
        "cloning.py",
        "return np.array(keras.ops.convert_to_numpy(variable))",
        "return variable",
        one("transforms", "share_no_memory"),
        ("jax",),  # TensorFlow copies what is assigned
    ),
    # Dtypes and training.
    M(
        "scores in the compute dtype",
        "kernel.py",
        'self.score_dtype = "float32" if half else self.variable_dtype',
        "self.score_dtype = self.compute_dtype",
        contract("dense", "gradient") + " --maxfail=1",
    ),
    M(
        "scores are autocast",
        "kernel.py",
        "autocast=False,",
        "autocast=True,",
        contract("dense", "selection_in_calls"),
    ),
    M(
        "the bank is trained",
        "kernel.py",
        '"bank", initial.bank_shape, initial.bank, self.variable_dtype)\n        self._greedy',
        '"bank", initial.bank_shape, initial.bank, self.variable_dtype, True)\n        self._greedy',
        contract("dense", "bank_never_changes"),
    ),
    M(
        "the kernel is not cast to the compute dtype",
        "layers/convolution.py",
        "kernel = ops.cast(self.slot_kernel.select(training), self.compute_dtype)",
        "kernel = self.slot_kernel.select(training)",
        one("layers", "mixed_policy"),
    ),
    M(
        "training is not passed to the kernel",
        "layers/dense.py",
        "kernel = ops.cast(self.slot_kernel.select(training), self.compute_dtype)\n        outputs = ops.matmul",
        "kernel = ops.cast(self.slot_kernel.select(), self.compute_dtype)\n        outputs = ops.matmul",
        contract("dense-probabilistic", "rule"),
    ),
    M(
        "a regularizer acts on the scores",
        "regularizers.py",
        "kernel.regularizer(kernel.select_greedily(trained))",
        "kernel.regularizer(trained)",
        one("layers", "regularizer"),
    ),
    M(
        "the penalty of moves acts on the weights",
        "regularizers.py",
        "at_rest(kernel.moves(trained))",
        "at_rest(trained)",
        one("regularizers", "nearest"),
    ),
    M(
        "a bias is forgotten in channels-first order",
        "layers/channels.py",
        "shape = (1, *ones, channels) if last else (1, channels, *ones)",
        "shape = (1, *ones, channels)",
        one("layers", "channels_first"),
        ("jax",),  # TensorFlow convolves channels last alone on a processor
    ),
    M(
        "groups are ignored",
        "layers/convolution.py",
        "inside = channels and channels // self.groups",
        "inside = channels",
        one("layers", "groups"),
    ),
    # Transforms and files.
    M(
        "NaN is materialized",
        "transforms.py",
        "if not bool(ops.all(ops.isfinite(value))):",
        "if False:",
        contract("dense", "bad_numbers"),
    ),
    M(
        "infinity is materialized",
        "transforms.py",
        "if not bool(ops.all(ops.isfinite(value))):",
        "if bool(ops.any(ops.isnan(value))):",
        contract("dense", "bad_numbers"),
    ),
    M(
        "materialize thaws frozen layers",
        "transforms.py",
        '"trainable": trainable and config["trainable"]',
        '"trainable": trainable',
        one("strangers_models", "frozen"),
    ),
    M(
        "a subclass with a call of its own is materialized",
        "transforms.py",
        'for method in ("build", "call"):',
        "for method in ():",
        one("strangers_weights", "call_of_its_own"),
    ),
    M(
        "the checksum of a .slots file is not read",
        "slots/container.py",
        'if zlib.crc32(memoryview(content)[:-4]) != struct.unpack("<I", content[-4:])[0]:',
        "if False:",
        "tests/test_slots.py -k 'damage or flipped'",
    ),
    M(
        "a file may end in more bytes",
        "slots/container.py",
        "if body.left:",
        "if False:",
        "tests/test_slots.py -k 'damage'",
    ),
    M(
        "a .slots file is written in place",
        "slots/atomic.py",
        "os.replace(name, path)",
        "path.write_bytes(content)",
        "tests/test_slots.py -k 'leaves_the_old_file or keeps_what'",
    ),
    M(
        "a .slots file is not synced",
        "slots/atomic.py",
        "            os.fsync(file.fileno())\n        mask",
        "        mask",
        "tests/test_slots.py -k 'leaves_the_old_file'",
    ),
    M(
        "what is written is not read again",
        "slots/kernels.py",
        "if _comes_back(record, selected, progress):",
        "if True:",
        "tests/test_slots.py -k 'write_kernel'",
    ),
    M(
        "the values of a kernel are not compared with their checksum",
        "slots/kernels.py",
        "if _checksum(chosen) != checksum:",
        "if False:",
        one("slots", "damage"),
    ),
    M(
        "shapes of a file are believed",
        "slots/file.py",
        "if different or len(expected) != len(received):",
        "if False:",
        one("slots", "compares_shapes"),
    ),
    M(
        "max_bytes is not heeded",
        "slots/file.py",
        "if needed > max_bytes:",
        "if False:",
        "tests/test_slots.py -k 'memory'",
    ),
    M(
        "an architecture may unpack to any size",
        "slots/container.py",
        "text = unpacker.decompress(packed, size + 1)",
        "text = unpacker.decompress(packed)",
        one("slots", "unpacks_no_more"),
    ),
)
