"""The one description of the schema, for dynamic filters. The migrations make the same; a test compares the two."""

from pgqueue.tables.schema import Tables, metadata, tables

__all__ = ["Tables", "metadata", "tables"]
