"""What looks at data before training, a room a command: ``data prepare``, ``check``, ``stats`` and ``preview``."""
