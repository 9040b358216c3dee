//! The admin plane over real sockets.

mod access;
mod changes;
mod streams;
mod tables;

use super::testing::*;
use super::*;
