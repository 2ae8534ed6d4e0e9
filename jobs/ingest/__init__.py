"""Landing files from a directory or S3, and publishing what passed validation."""
