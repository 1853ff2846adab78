"""What the compiler made of the kernels, read without a GPU."""
