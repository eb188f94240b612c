"""From fold models to OOF and test tables."""
