"""Ensembling across runs: stacking of members' OOF predictions (second level)."""
