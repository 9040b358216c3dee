//! What no proper client does, and what goes wrong: the answer to each, over real connections to a gateway in a
//! namespace of its own. After each the table of sessions is empty, a counter has the reason, and nothing was an error.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod case;
mod datagrams;
mod floods;
mod outages;
mod requests;
mod streams;
