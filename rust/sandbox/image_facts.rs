//! Facts about the guest's image, found by build.rs.

include!(concat!(env!("OUT_DIR"), "/facts.rs"));
