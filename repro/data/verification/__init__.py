"""Whether a data set is whole: every split, class and file of it, and the report."""
