"""Errors for features of Keras layers that slot layers refuse: kernel constraints, LoRA, quantization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keras_slots._keras import check_before_quantization

if TYPE_CHECKING:
    from keras.layers import Layer as _Mixin
else:
    _Mixin = object


class Refusals(_Mixin):
    """Mixin before a Keras layer that refuses constraints, LoRA and quantization of its kernels."""

    #: Prefixes of the arguments about each kernel, as in `kernel_initializer` or `depthwise_regularizer`.
    kernel_arguments: tuple[str, ...] = ("kernel",)

    def refuse_kernel_updates(self) -> None:
        """Raises an error for arguments that would change a kernel."""
        for argument in (f"{name}_constraint" for name in self.kernel_arguments):
            constraint = getattr(self, argument, None) or getattr(self, f"_{argument}", None)
            if constraint is not None:
                raise ValueError(
                    f"`{argument}` must be None in a slot layer: its values are fixed and never updated. "
                    f"Received: {argument}={constraint}. Constrain the values through `bank_initializer` instead."
                )
        if getattr(self, "lora_rank", None):
            self.enable_lora(self.lora_rank)
        mode = getattr(self.dtype_policy, "quantization_mode", None)
        if getattr(self, "quantization_config", None) or mode:
            raise ValueError(self._no_quantization(mode))

    def enable_lora(self, rank: int, *args: Any, **kwargs: Any) -> None:
        """Raises an error: LoRA adds to a trained kernel, but this kernel is selected."""
        raise ValueError(
            f"A slot layer does not support LoRA. Received: rank={rank} for layer '{self.name}'. Call "
            "`keras_slots.materialize(model)` and enable LoRA on the plain layers of the new model. To keep a "
            "plain layer that has LoRA already, leave it out through `filters` of `slotify`."
        )

    def quantize(self, mode: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Raises an error: quantization would replace the kernel, but this kernel is selected."""
        raise ValueError(self._no_quantization(mode))

    def _no_quantization(self, mode: str | None) -> str:
        return (
            f"A slot layer cannot be quantized. Received: mode={mode!r} for layer '{self.name}'. Call "
            "`keras_slots.materialize(model)` and quantize the new model. To keep a plain layer that "
            "is quantized already, leave it out through `filters` of `slotify`."
        )


def _refuse_quantization(model: Any, layers: list[Any]) -> None:
    """Raises an error if a slot layer is among the layers that `model.quantize` would quantize."""
    for layer in layers:
        if isinstance(layer, Refusals):
            raise ValueError(
                f"A model with slot layers cannot be quantized. Received: model '{model.name}' with the slot "
                f"layer '{layer.name}'. Call `keras_slots.materialize(model)` first and quantize the new model."
            )


check_before_quantization(_refuse_quantization)
