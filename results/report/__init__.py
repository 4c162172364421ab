"""The report as one page, and the artifact that packs it with its data."""
