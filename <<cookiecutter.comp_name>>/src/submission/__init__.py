"""From prediction tables to a checked submission."""
