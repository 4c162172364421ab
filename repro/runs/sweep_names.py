"""Names in a sweep's folder that launching writes and results pass over."""

LEDGER = "jobs.jsonl"
"""The file that names every job; a folder that holds it is a sweep's."""
LOGS = "logs"
"""The folder of what was submitted, each in one that only its owner may look into; no run is in there."""
