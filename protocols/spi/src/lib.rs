//! The contract between the gateway and its protocol modules.
