"""What every training shares: the loop, checkpoints, augmentation, losses, the device."""
