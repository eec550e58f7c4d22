//! The local stack: emulators, deployment, demo, test kit.
