//! Sessions, admission, address pools, terminate causes and restoration: the engine under every protocol.
