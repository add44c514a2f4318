"""Features of photos: computing them, storing them on disk, and probing them."""
