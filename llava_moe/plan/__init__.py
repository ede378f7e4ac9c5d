"""What a training command will need, known before a weight is read: steps, memory, disk, hours, and what would fit."""
