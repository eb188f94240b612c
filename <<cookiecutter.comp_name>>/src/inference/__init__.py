"""Inference: from fold models to OOF and test prediction tables."""
