"""Where the object is: a frozen network's activations, and the foreground that is read off them."""
