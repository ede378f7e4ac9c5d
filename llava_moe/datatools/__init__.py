"""Looks at data before training, one room per command: ``data prepare``, ``check``, ``stats`` and ``preview``."""
