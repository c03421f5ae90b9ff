"""Kinds of table columns, one a file: what each learns from the training rows, and the numbers it gives."""
