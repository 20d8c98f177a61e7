//! What did build.rs find in the guest's image?

include!(concat!(env!("OUT_DIR"), "/facts.rs"));
