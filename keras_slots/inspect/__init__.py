"""Shows what a slot machine has selected: a callback, tables and figures."""
