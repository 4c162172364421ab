"""What a sweep's folder holds: which jobs were submitted, and the locks of those who launch."""
