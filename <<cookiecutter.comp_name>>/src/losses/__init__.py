"""Loss functions, per sample: (output, targets) -> (B,). The reduction over the batch happens once, at the
end."""
