"""What tests of instruments share stands in ``tests/conftest.py``: tests of their commands need it, too."""

from __future__ import annotations

from tests.conftest import THREE_DOMAINS, Trained

__all__ = ["THREE_DOMAINS", "Trained"]
