"""The catalog: items, codes, generations, jobs and blobs, kept in SQL and a blob store."""
