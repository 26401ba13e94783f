"""Where the numbers of a kernel come from: random streams, distributions, banks. No Keras layer in sight."""

# They name themselves where arguments look them up.
from keras_slots.values import distributions, nearest_scores, stratified

__all__ = ["distributions", "nearest_scores", "stratified"]
