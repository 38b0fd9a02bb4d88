//! Models that make pictures from text, against references made elsewhere.

mod common;

mod text_to_image {
    mod autoencoder;
}
