"""Figures and tables that a run leaves for people to inspect."""
