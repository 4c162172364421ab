"""The built-in pictures: drawn or pasted objects on textures, with class, box and exact mask."""
