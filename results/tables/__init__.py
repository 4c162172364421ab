"""The paper's tables with our numbers beside the published ones, and where each comes from."""
