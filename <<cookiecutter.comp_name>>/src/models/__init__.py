"""Networks: a timm backbone, its head, and the weights it starts from."""
