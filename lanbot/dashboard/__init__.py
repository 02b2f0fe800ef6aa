"""A page on which runs are followed while they train, and compared."""
