"""What decides λ: the paper's rules, schedules, and `AutoL2` for a training loop of one's own."""
