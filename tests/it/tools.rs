//! Commands on adapters: prune, verify, import.
