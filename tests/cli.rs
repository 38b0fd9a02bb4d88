//! The program as a user sees it: every command through the binary, the files that it writes, and its messages about
//! bad input.

#[allow(dead_code, reason = "the kernels use the rest")]
#[path = "common/skip.rs"]
mod skip;

mod cli {
    mod adapters;
    mod bad_devices;
    mod bad_input;
    mod bad_pictures;
    mod bad_runs;
    mod bench;
    mod classes;
    mod clip_score;
    mod commands;
    mod config;
    mod dashboard;
    mod doctor;
    mod documents;
    mod evaluation;
    mod fine_tuning;
    mod half;
    mod inspect;
    mod interruption;
    mod latent;
    mod minit2i;
    mod outputs;
    mod outside;
    mod profile;
    mod resumed;
    mod samples;
    mod shapes;
    mod sweep;
    mod text_evaluation;
    mod text_mistakes;
    mod text_to_image;
    mod text_training;
    mod workplace;
}
