//! External rewards: real programs and real services on this machine, working and broken ones.
//!
//! Programs need `python3` and `sh`; a machine without them fails here and says so.

mod outside {
    mod bad_programs;
    mod bad_services;
    mod configuration;
    mod pictures;
    mod programs;
    mod server;
    mod services;
}
