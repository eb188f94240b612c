"""Pseudo-labelling: selection of confident rows, and the rounds of training on them."""
