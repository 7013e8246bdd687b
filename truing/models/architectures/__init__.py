"""One module a family of architectures: config in, description out."""
