"""What ``scripts/gpu_check.py`` checks and measures on one GPU, a module each."""
