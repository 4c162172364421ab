"""The random views of an image: what is drawn for one, and the draw applied with PIL or to a batch on the device."""
