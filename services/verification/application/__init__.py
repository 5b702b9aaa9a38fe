"""The use cases of verification, a module for each kind of record."""
