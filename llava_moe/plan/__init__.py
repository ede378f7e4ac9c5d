"""What a training command will need, estimated without loading weights: steps, memory, disk, hours, what would fit."""
