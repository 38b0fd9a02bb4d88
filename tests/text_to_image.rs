//! Text-to-image models: their files, and their parts against values that other programs computed.

mod common;

mod text_to_image {
    mod autoencoder;
    mod clip_reward;
    mod fine_tuning;
    mod folder;
    mod judge;
    mod minit2i;
    mod mmdit;
    mod mmdit_files;
    mod text;
    mod text_input;
    mod training;
}
