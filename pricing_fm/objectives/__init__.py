"""Losses and targets of offline policy learning: pure functions of tensors."""
