"""Training: the one Accelerate loop, what it is told, and what it leaves on disk."""
