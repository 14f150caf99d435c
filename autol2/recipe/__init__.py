"""What a network is trained with beside λ: optimizer, learning rate, augmentation and loss."""
