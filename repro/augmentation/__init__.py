"""The random views of an image: one draw, applied by PIL or batched on the device."""
