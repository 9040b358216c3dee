//! L2TPv2 (RFC 2661): wire format, tunnel and call machines, and the data path codec.

pub mod wire;
