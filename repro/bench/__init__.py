"""Benchmarks: commands that time rivals side by side in one run, or measure how fast methods train here."""
