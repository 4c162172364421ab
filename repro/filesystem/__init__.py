"""Files and folders: what is there, written so that nothing is torn, and refusals that name the mend."""
