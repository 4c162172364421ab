"""What a job is, from the file it starts from to why it ended."""
