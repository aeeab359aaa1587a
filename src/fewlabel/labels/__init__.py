"""Label efficiency on CIFAR-10."""
