"""A trained backbone as a file: how it is read, written, taken from elsewhere, and exported to other libraries."""
