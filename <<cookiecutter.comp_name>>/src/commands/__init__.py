"""Commands beside the six stages, one module each: `python -m src.commands.<name>` or `make <name>`.

They inspect, measure, advise and talk to Kaggle, and change nothing that a stage reads.
"""
