"""What the machine offers: compilers, memory, other processes."""
