"""What every training shares: the loop, checkpoints, augmentation, the device."""
