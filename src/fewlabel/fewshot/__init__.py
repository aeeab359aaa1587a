"""Few-shot learning: episodes, methods, training and evaluation."""
