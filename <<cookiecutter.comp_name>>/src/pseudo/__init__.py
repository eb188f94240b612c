"""Pseudo-labels: what is confident, and the recursion."""
