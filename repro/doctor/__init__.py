"""What is wrong with a machine or with a node of a cluster, and the mend."""
