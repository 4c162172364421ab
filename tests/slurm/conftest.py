"""The fixture that files on jobs of this machine share."""

from local_samples import programs  # noqa: F401 (a fixture is used by its name)
