"""What a mixture will train on, counted exactly from its plan, and its first rows shown token by token."""
