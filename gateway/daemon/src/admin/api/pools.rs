//! Address pools and leases.

use super::Result;
use crate::admin::call::{Call, Params};
use crate::admin::views::{LeaseView, PoolView};
use sluice_core::{Address, LeaseQuery};

pub(crate) async fn list(call: Call) -> Result {
    let pools = call.plane.engine().pools();
    let views: Vec<PoolView> = pools.iter().map(PoolView::from).collect();
    call.page(&views, None)
}

struct AddressText(Address);

impl std::str::FromStr for AddressText {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let v4 = text.parse().map(Address::V4);
        let address = v4.or_else(|_| text.parse().map(Address::V6));
        address.map(Self).map_err(|_| ())
    }
}

fn cursor(params: &Params<'_>) -> Option<Address> {
    let cursor = params.parsed("cursor", "the `next` of the page before");
    cursor.map(|AddressText(address)| address)
}

pub(crate) async fn leases(call: Call) -> Result {
    let params = call.params();
    let query = LeaseQuery {
        pool: params.text("pool"),
        user: params.text("user"),
        after: cursor(&params),
        limit: params.limit(),
    };
    params.finish()?;
    let page = call.plane.engine().leases(&query);
    let views: Vec<LeaseView> = page.items.iter().map(LeaseView::from).collect();
    call.page(&views, page.next.map(|next| next.to_string()))
}
