//! The phases of import, export and clone: typed state in, typed state out.
