"""The Kaggle API layer: competition data, the inference bundle, kernels and submissions."""
