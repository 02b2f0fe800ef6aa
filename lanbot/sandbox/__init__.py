"""Runs code that a model wrote. `sandbox.run` is the entry point; docs/sandbox.md says what is and is not stopped."""
