"""Data: tables, folds, the image cache, augmentation and batches."""
