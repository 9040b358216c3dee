//! The parent process that holds descriptors and memory for the worker and restarts it.
