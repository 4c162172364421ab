"""What the runs at hand say to the paper's claims."""
