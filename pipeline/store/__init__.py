"""The object store: one small interface, a local folder and S3 behind it."""
