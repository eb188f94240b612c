"""Networks: a timm backbone, pooling, neck and head or decoder, and loading and saving of weights."""
