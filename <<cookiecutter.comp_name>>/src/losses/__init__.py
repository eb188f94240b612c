"""Per-sample losses: (output, targets) -> (B,), reduced once, at the end."""
