"""Which patches of a view are hidden, and what stands in their place."""
