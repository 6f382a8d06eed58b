//! Files and bytes: checkpoints by memory map, and the packed form of the base's linears.
