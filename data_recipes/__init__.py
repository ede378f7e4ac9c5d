"""Commands that make the data files shipped with or used by the project; nothing here is imported by the library."""
