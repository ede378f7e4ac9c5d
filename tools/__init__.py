"""Programs that made files of this project; nothing of the package imports them."""
