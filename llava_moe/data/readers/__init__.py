"""Published record formats, each turned into the one row that records are kept in."""
