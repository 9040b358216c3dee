//! The rig itself: a guest boots, runs commands, and is gone afterwards.

use sluice_tests::rig::{Guest, Lab, ready};

#[test]
fn a_guest_boots_and_reaches_the_bridge() {
    if !ready() {
        return;
    }
    let lab = Lab::new();
    let mut guest = Guest::boot(&lab.edge, "br0", "10.99.0", 50, None);
    assert!(guest.must("uname -r").starts_with('6'));
    guest.must("ping -c 1 -W 2 10.99.0.1");
    guest.must("ping -6 -c 1 -W 2 fd99::1");
    assert_eq!(guest.run("exit 7").code, 7);
}
