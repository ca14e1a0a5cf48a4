"""The places that hold an element's files: its own disk, or a bucket in S3. base.py is their contract."""
