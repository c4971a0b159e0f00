//! Frames and messages between supervisor, guest and client.
