"""What a slot machine has selected: a callback, tables and figures."""
