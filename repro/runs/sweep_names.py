"""Names in a sweep's folder that launching writes and readers of results skip."""

LEDGER = "jobs.jsonl"
"""The file that names every job; a folder that holds it is a sweep's."""
LOGS = "logs"
"""The folder of submissions, each with a subfolder that only its owner may read; it holds no runs."""
RENDERED = "tables"
"""The folder of the tables that its report renders."""
