//! The program as a user meets it: every command by its binary, what it leaves on disk, and what it says to
//! bad input.

mod cli {
    mod adapters;
    mod bad_devices;
    mod bad_input;
    mod bad_pictures;
    mod bad_runs;
    mod bench;
    mod classes;
    mod commands;
    mod config;
    mod dashboard;
    mod documents;
    mod evaluation;
    mod half;
    mod inspect;
    mod interruption;
    mod outputs;
    mod outside;
    mod profile;
    mod resumed;
    mod samples;
    mod sweep;
    mod text_to_image;
    mod workplace;
}
