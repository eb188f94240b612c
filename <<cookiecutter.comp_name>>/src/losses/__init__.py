"""Loss functions per sample: (output, targets) -> (B,). The batch is reduced once, at the end."""
