//! A package of tests alone: `tests/sources`.
