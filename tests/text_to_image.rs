//! Text-to-image models: their files, and their parts against references made elsewhere.

mod text_to_image {
    mod folder;
}
