"""Running code that a model wrote. `sandbox.run` is the door; docs/sandbox.md says what it stops and what not."""
