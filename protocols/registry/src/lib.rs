//! The only list of protocol modules, and the election between modules that share a port.
