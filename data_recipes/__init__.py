"""Pages that say how published data sets become records, and commands that make the project's own data files."""
