"""The backends that the tests run on: what differs between them, as one value a backend.

This module imports neither Keras nor a backend, because the devices have to be set before either starts.
"""

import contextlib
import os


class Backend:
    """What the tests ask of a backend; another backend is another subclass in `BACKENDS`."""

    name: str
    compilations: tuple  #: The ways to compile a function, the most thorough one last.
    exports = False  #: Whether Keras writes models for serving.
    remat_modes = ("activations",)  #: What slot layers can rematerialize under `keras.RematScope`.
    jit_compile = (True, False)  #: With which `jit_compile` Keras trains a model.
    graphs_follow_a_loaded_seed = True  #: Whether a compiled function reads a seed that is loaded later.

    def split_cpu(self, count):
        """Makes the CPU look like several devices."""
        raise NotImplementedError

    def compiled(self, function, way, variables=()):
        """The function of arrays, compiled; it reads the present values of the Keras variables."""
        raise NotImplementedError

    def gradients(self, function, variables, inputs=(), way="eager"):
        """Of `function(*inputs)`, which returns a scalar and another result: that result and the gradients."""
        raise NotImplementedError

    def sparse(self, x):
        raise NotImplementedError

    def is_traced(self, value):
        raise NotImplementedError

    def infinities_are_errors(self):
        """A context in which an operation that makes an infinity fails."""
        raise NotImplementedError

    def double_precision(self):
        """A context with float64, where that is off unless asked for."""
        return contextlib.nullcontext()

    def forget_compiled(self):
        """Frees compiled programs, where they are kept for the life of the process."""


class TensorFlow(Backend):
    name = "tensorflow"
    compilations = ("tf.function", "xla")
    exports = True
    graphs_follow_a_loaded_seed = False

    def split_cpu(self, count):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        devices = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
        tf.config.set_logical_device_configuration(cpu, devices)

    def compiled(self, function, way, variables=()):
        import tensorflow as tf

        if way == "eager":
            return function
        traced = tf.function(function, jit_compile=way == "xla", autograph=False)
        return lambda *arrays: traced(*(tf.constant(x) for x in arrays))

    def gradients(self, function, variables, inputs=(), way="eager"):
        import tensorflow as tf

        def both(*inputs):
            with tf.GradientTape() as tape:
                tape.watch([v.value for v in variables])
                total, result = function(*inputs)
            return result, tape.gradient(total, [v.value for v in variables])

        return self.compiled(both, way)(*(tf.constant(x) for x in inputs))

    def sparse(self, x):
        import tensorflow as tf

        return tf.sparse.from_dense(x)

    def is_traced(self, value):
        import tensorflow as tf

        return isinstance(value, tf.Tensor) and tf.is_symbolic_tensor(value)

    @contextlib.contextmanager
    def infinities_are_errors(self):
        import tensorflow as tf

        tf.debugging.enable_check_numerics()
        try:
            yield
        finally:
            tf.debugging.disable_check_numerics()


class Jax(Backend):
    name = "jax"
    compilations = ("jit",)
    # On TensorFlow, Keras cannot pass `training` on in mode "full".
    remat_modes = ("activations", "full")

    def split_cpu(self, count):
        flag = f"--xla_force_host_platform_device_count={count}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()

    def compiled(self, function, way, variables=()):
        import jax

        if way == "eager":
            return function
        run = jax.jit(self._of_values(function, variables))
        return lambda *arrays: run([v.value for v in variables], *arrays)

    def gradients(self, function, variables, inputs=(), way="eager"):
        import jax

        run = jax.grad(self._of_values(function, variables), has_aux=True)
        if way != "eager":
            run = jax.jit(run)
        gradients, result = run([v.value for v in variables], *inputs)
        return result, gradients

    def _of_values(self, function, variables):
        import keras

        def run(values, *arrays):
            state = list(zip(variables, values, strict=True))
            # Not `stateless_call` of a layer, which casts nothing to the compute dtype.
            with keras.StatelessScope(state_mapping=state):
                return function(*arrays)

        return run

    def sparse(self, x):
        import jax.experimental.sparse

        return jax.experimental.sparse.BCOO.fromdense(x, n_batch=1)

    def is_traced(self, value):
        import jax

        return isinstance(value, jax.core.Tracer)

    def infinities_are_errors(self):
        import jax

        return jax.debug_infs(True)

    @contextlib.contextmanager
    def double_precision(self):
        import jax

        before = jax.config.jax_enable_x64
        jax.config.update("jax_enable_x64", True)
        try:
            yield
        finally:
            jax.config.update("jax_enable_x64", before)

    def forget_compiled(self):
        import jax

        jax.clear_caches()


class Torch(Backend):
    name = "torch"
    compilations = ("graph",)
    jit_compile = (False,)  # keras#22282

    def split_cpu(self, count):
        """There is only one CPU device."""

    def compiled(self, function, way, variables=()):
        import keras
        from torch.fx.experimental.proxy_tensor import make_fx

        if way == "eager":
            return function

        def run(*arrays):
            arrays = [keras.ops.convert_to_tensor(x) for x in arrays]
            # It counts `self` of a method as an argument.
            return make_fx(lambda *inputs: function(*inputs))(*arrays)(*arrays)

        return run

    def gradients(self, function, variables, inputs=(), way="eager"):
        import torch

        values = [v.value for v in variables]

        def both(*inputs):
            total, result = function(*inputs)
            return result, torch.autograd.grad(total, values, allow_unused=True)

        return self.compiled(both, way)(*inputs)

    def sparse(self, x):
        import torch

        return torch.as_tensor(x).to_sparse()

    def is_traced(self, value):
        import torch

        return isinstance(value, torch.Tensor) and value.is_meta

    @contextlib.contextmanager
    def infinities_are_errors(self):
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode

        class Check(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                result = function(*args, **(kwargs or {}))
                if isinstance(result, torch.Tensor) and torch.isinf(result).any():
                    raise FloatingPointError(f"{function} made an infinity")
                return result

        with Check():
            yield


BACKENDS = {backend.name: backend for backend in (TensorFlow(), Jax(), Torch())}
NAME = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
#: The backend of this run; None where the tests do not know it, which `conftest.py` refuses.
BACKEND = BACKENDS.get(NAME)


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
