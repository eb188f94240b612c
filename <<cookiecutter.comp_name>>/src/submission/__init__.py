"""Submission: from prediction tables to a checked submission file."""
