"""Opens files safely, and reads back the files that we wrote."""
