//! Tasks and images: their life, their rules, and the ports to the outside; no I/O.
