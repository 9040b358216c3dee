//! Sluice: a multi-protocol session gateway and tunnel concentrator.
