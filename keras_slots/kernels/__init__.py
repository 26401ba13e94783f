"""What is trained in the place of a kernel and how it selects: one module for each score mode."""
