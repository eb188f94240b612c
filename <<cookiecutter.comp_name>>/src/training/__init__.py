"""The loop for one model and one fold, and what surrounds it."""
