"""Option files: read, described by schemas, checked, rehearsed."""
