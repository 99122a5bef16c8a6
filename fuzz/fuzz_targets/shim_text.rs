//! The text of a shim's page, part of which the guest writes; converted twice with one history, as in life.
#![no_main]

use kata_pulse::collect::shim::parse::{ParseLimits, parse};
use kata_pulse::convert::{GuestHistory, Moment, convert};

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    let mut history = GuestHistory::default();
    for (now_seconds, whole) in [(0.0, true), (10.0, false)] {
        let sample = parse(body, whole, ParseLimits::default());
        assert!(sample.interfaces.len() <= 64 && sample.disks.len() <= 64);
        convert(&sample, &mut history, Moment { now_seconds, vmm_age_seconds: Some(60.0 + now_seconds) });
    }
});
