"""Builders and oracles for tests: random tables, and plans by enumeration."""
