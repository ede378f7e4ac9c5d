"""Many trainings that are looked at together: what they are, how they are made and not made twice, what differs."""
