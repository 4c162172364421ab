"""The paper's numbers and claims, as files beside the modules that read them."""
