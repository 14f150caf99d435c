"""The rules and schedules that decide λ, and `AutoL2` for your own training loop."""
