"""One folder a family, one file a method; a method is found by its path."""
