"""What PyTorch alone offers: its function transforms, second derivatives, modules and their parameters."""

import gc

import keras
import numpy as np
import pytest
import torch

from comparisons import numpy_of
from keras_slots import SlotConv2D, SlotDense, load_slots, materialize, save_slots
from mode_table import SCORE_MODES

MODES = tuple(SCORE_MODES)


def layer_of(mode):
    layer = SlotDense(3, score_mode=mode, seed=1)
    layer.build((None, 4))
    return layer


def trained(layer):
    (variable,) = layer.slot_kernels["kernel"].trained_variables()
    return variable


@pytest.mark.parametrize("mode", MODES)
def test_vmap_of_grad_gives_the_gradient_of_each_sample(mode):
    layer = layer_of(mode)
    kernel, x = layer.slot_kernels["kernel"], torch.randn(5, 4)

    def total(values, sample):
        return (sample @ kernel.select_greedily(values) ** 2).sum()

    each = torch.func.vmap(torch.func.grad(total), in_dims=(None, 0))(trained(layer).value, x)
    for gradient, sample in zip(each, x, strict=True):
        (expected,) = torch.autograd.grad(total(trained(layer).value, sample), trained(layer).value)
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("mode", MODES)
def test_second_derivative_is_that_of_the_straight_through_gradient(mode):
    layer = layer_of(mode)
    values = trained(layer).value
    (first,) = torch.autograd.grad((layer.kernel**3).sum(), values, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), values)
    kernel, bank = numpy_of(layer.kernel), numpy_of(layer.bank)
    expected = 6 * kernel  # of the kernel itself, once for the gradient of the gradient
    if mode == "per_value":
        # d/ds_k of sum_j 3 w^2 b_j is 6 w b_k sum_j b_j.
        expected = expected[..., None] * bank * bank.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(numpy_of(second), expected, rtol=1e-5)


def model():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            SlotConv2D(3, 2, score_mode="nearest", activation="relu"),
            keras.layers.Flatten(),
            SlotDense(4, score_mode="per_connection"),
            SlotDense(2),
        ]
    )


def made(tmp_path, how):
    first = model()
    if how == "loaded":
        first.save(tmp_path / "m.keras")
        return keras.models.load_model(tmp_path / "m.keras")
    if how == "unpacked":
        return load_slots(save_slots(first, tmp_path / "m.slots"))
    return materialize(first) if how == "materialized" else first


@pytest.mark.parametrize("how", ["built", "loaded", "materialized", "unpacked"])
def test_parameters_of_the_module_are_the_trained_variables(tmp_path, how):
    module = made(tmp_path, how)
    expected = {id(v.value) for v in module.trainable_variables}
    assert {id(p) for p in module.parameters() if p.requires_grad} == expected
    assert len(module.state_dict()) >= len(module.variables)


@pytest.mark.parametrize("how", ["built", "unpacked"])
def test_distributed_data_parallel_gives_every_trained_variable_a_gradient(tmp_path, how):
    module = made(tmp_path, how)
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(module)
        wrapped(torch.randn(5, 6, 6, 2)).sum().backward()
    finally:
        # The last reference to the group must not be that of the wrapper: its destructor can wait for a thread
        # that waits for the interpreter.
        wrapped = None
        gc.collect()
        torch.distributed.destroy_process_group()
    assert all(v.value.grad is not None for v in module.trainable_variables)
