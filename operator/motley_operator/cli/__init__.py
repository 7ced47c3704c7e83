"""The `motley` command: one module a verb; the only code that may import all three packages."""
