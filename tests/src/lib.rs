//! Tests across crates: layout, coexistence, restoration, interoperation with real peers, load.
