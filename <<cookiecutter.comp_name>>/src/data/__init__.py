"""Tables, folds, images and the batches made of them."""
