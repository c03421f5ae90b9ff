"""Figures as plain numbers: one figure a file, each a function of a record that returns a NamedTuple. Nothing here draws."""
