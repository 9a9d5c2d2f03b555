"""The access log: one row a request, spooled to the local disk, kept as Parquet, queried by a command."""
