//! Text-to-image models against values that other programs computed.

mod common;

mod text_to_image {
    mod mmdit;
}
