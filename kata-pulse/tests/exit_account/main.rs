//! What processes had used when they ended: as the kernel's programs add it up (`kernel`), and as discovery tells it of
//! sandboxes that live shorter than any interval (`brief`).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod brief;
mod burner;
mod kernel;

/// Not a test: what the processes do that the tests start, each the same program under a VMM's name.
#[test]
fn burner() {
    burner::play();
}
