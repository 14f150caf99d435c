"""The training recipe besides λ: optimizer, learning rate schedule, augmentation and loss."""
