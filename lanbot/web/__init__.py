"""The server: models behind the APIs that clients speak."""
