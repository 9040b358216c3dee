//! A disk that gets full costs no session.

use sluice_tests::disk;
use sluice_tests::rig::ready;

#[test]
fn a_full_disk_costs_no_session() {
    if ready() {
        eprintln!("full disk: {}", disk::full_for_a_while(100));
    }
}

#[test]
fn an_orderly_end_needs_no_room() {
    if ready() {
        disk::ends_while_full();
    }
}
