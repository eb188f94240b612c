"""What speaks to Kaggle: the competition's files, the bundle, the kernels, the submissions."""
