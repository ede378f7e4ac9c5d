"""Published data sets, from their downloads to prepared shards: recipes, and what turns them into Parquet."""
