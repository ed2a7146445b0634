"""Text to machine code: rows become kernel source, source becomes cached native functions."""
