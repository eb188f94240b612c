"""Commands beside the six stages: they look, measure and advise, and change nothing that a stage reads."""
