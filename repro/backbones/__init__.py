"""A trained backbone as a file: read, written, taken from elsewhere, and exported to other libraries."""
