"""From a sweep's file to a graph of jobs, and what they will cost."""
