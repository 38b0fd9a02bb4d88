//! Rewards that run outside: real programs and real services on this machine, those that work and those that do not.
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
