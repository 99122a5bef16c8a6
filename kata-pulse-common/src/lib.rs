//! Types and constants both sides of the kernel share: plain integers, no dependency.
#![no_std]
