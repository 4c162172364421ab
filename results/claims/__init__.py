"""What the runs at hand say about the paper's claims."""
