"""Benchmarks: commands that print ratios of rivals, timed side by side in one run, and how fast methods train here."""
