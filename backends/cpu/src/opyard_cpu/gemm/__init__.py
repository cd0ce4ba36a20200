"""Matrix products in machine code made by LLVM, with what follows fused into them, for weights that are read from memory."""
