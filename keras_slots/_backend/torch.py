"""PyTorch code; `generic.py` says what each function owes."""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import keras
import numpy as np
import torch
from keras import ops

Tensor = Any
Function = Callable[..., Any]

# Compiling takes seconds: a selection that is read now and then never wins them back.
_CALLS_BEFORE_COMPILING = 100
_NOT_COMPILED: list[Function] = []


@cache
def straight_through(select: Function, gradient: Function, exact: bool = True) -> Function:
    """Selection with a gradient of its own, by `torch.autograd.Function`.

    If it is `exact`, a compiled program takes over in the course of training; elsewhere that would make a resumed
    run differ from an uninterrupted one.
    """

    class Selected(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*arrays: Tensor) -> Tensor:
            return _selection(select, arrays) if exact else select(*arrays)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx: Any, upstream: Tensor) -> Any:
            arrays = ctx.saved_tensors
            gradients = gradient(upstream.to(arrays[0].dtype), *arrays)
            return *gradients, *(None for _ in arrays[len(gradients) :])

    return lambda *arrays: Selected.apply(*(ops.convert_to_tensor(x) for x in arrays))


def compiled(function: Function) -> Function:
    """`function` of tensors, as it is: only selections are compiled, see `straight_through`."""
    return lambda *arrays: function(*(ops.convert_to_tensor(x) for x in arrays))


def _selection(select: Function, arrays: tuple[Tensor, ...]) -> Tensor:
    # Not inside other programs, nor for tensors without values.
    plain = all(type(x) in (torch.Tensor, torch.nn.Parameter) and not x.is_meta for x in arrays)
    if not plain or torch.compiler.is_compiling():
        return select(*arrays)
    signature = tuple((x.shape, x.stride(), x.dtype, x.device) for x in arrays)
    return _program(select, signature)(*(x.detach() for x in arrays))


@cache
def _program(select: Function, signature: tuple) -> "_Program":
    """One program for all layers of all models that select so from tensors of one kind."""
    return _Program(select)


class _Program:
    """A selection that is compiled once it has been called often."""

    def __init__(self, select: Function):
        self.select = select
        self.calls = 0

    def __call__(self, *arrays: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == _CALLS_BEFORE_COMPILING:
            self.select = _compiled(self.select, arrays)
        return self.select(*arrays)


def _compiled(select: Function, arrays: tuple[Tensor, ...]) -> Function:
    """`select` as a program for tensors like these; `select` itself, and a warning, where that fails."""
    try:
        from torch import _inductor  # which takes a second to import
        from torch.fx.experimental.proxy_tensor import make_fx

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own, about its own code
            # The compiler of `torch.compile`, without what that does in each call to find out whether the program
            # still fits, and without its limit of eight programs for one function.
            program = _inductor.compile(make_fx(select)(*arrays), list(arrays))
            program(*arrays)
    except Exception as error:  # of many kinds: no C++ compiler, no Triton, an unknown device
        if not _NOT_COMPILED:
            warnings.warn(
                "TorchInductor could not compile the selection of a slot layer, which goes on more slowly. "
                "Install a C++ compiler (for a CPU) or Triton (for a GPU). "
                f"Cause: {type(error).__name__}: {error}",
                stacklevel=2,
            )
        _NOT_COMPILED.append(select)
        return select
    return program


def initializer(array: Callable[[], Any]) -> Function:
    """Initializer of a variable with the values of `array()`."""
    return lambda shape, dtype=None: ops.convert_to_tensor(array(), dtype)


def from_host(function: Callable[[np.ndarray], Any], argument: Any, like: Any) -> Any:
    """`function(argument)`, computed with NumPy."""
    value = argument.value
    if value.is_meta:  # Keras asks for shapes alone
        return tuple(ops.empty(x.shape, x.dtype) for x in like)
    return tuple(ops.convert_to_tensor(x) for x in function(ops.convert_to_numpy(value)))


def eager_scope() -> Any:
    """A context in which tensors have values, and random ones are those of a CPU on every device."""
    return keras.device("cpu")


def take_rows(variable: Any, rows: Tensor) -> Tensor:
    """The rows of a Keras variable with these numbers."""
    return ops.take(variable, rows, axis=0)


def zero_gradient_at_zero(x: Tensor) -> Tensor:
    """`x`, whose `abs` has no gradient where it is 0, by PyTorch's own rule."""
    return x
