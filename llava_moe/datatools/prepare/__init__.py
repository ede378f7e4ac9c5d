"""Turns downloads of published data sets into prepared shards of Parquet, by their recipes."""
