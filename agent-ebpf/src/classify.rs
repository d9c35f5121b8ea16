//! What the first bytes of a segment look like: cheap tests that run in the kernel and in user space.
