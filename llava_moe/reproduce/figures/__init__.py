"""The figures: ``PAPER_FIGURE.py`` says which cells and what is drawn, ``PAPER_FIGURE.yaml`` with which words."""
