//! What tests run tasks on: the state machines as they are deployed, over functions that the test gives.

pub mod asl;
