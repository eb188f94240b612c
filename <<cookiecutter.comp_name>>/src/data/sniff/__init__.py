"""`make sniff`: inspect Kaggle's files and infer the id, the target and the task."""
