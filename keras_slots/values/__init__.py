"""The numbers that a kernel starts from: random streams, distributions and banks, without Keras layers."""

# Importing them registers their names.
from keras_slots.values import distributions, nearest_scores, stratified

__all__ = ["distributions", "nearest_scores", "stratified"]
