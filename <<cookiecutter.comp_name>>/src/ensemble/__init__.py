"""Across models: the stack over OOF tables."""
