"""What a sweep's folder holds: which jobs went out, and the locks of those who launch."""
