"""The plots of recorded runs."""
