//! Fans events out to connected devices.
