"""What the compilers made of the kernels, read without a GPU: `aot` Triton, `aot_cuda` the library, `sass`, ledger."""
