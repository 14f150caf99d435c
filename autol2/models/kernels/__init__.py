"""What makes a network faster on a CPU and leaves its mathematics alone."""
