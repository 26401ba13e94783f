"""Where the numbers of a kernel come from: random streams, distributions, banks. No Keras layer in sight."""
