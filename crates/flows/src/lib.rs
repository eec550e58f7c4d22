//! The phases of import and lifecycle: typed state in, typed state out.

pub mod ports;
