"""What is installed beside the Python code: the generator, the unit files, the package's own scripts."""
