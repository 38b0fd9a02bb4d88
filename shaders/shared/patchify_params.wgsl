// Parameters of both directions between images and patch vectors.
struct PatchifyParams {
    images: u32,
    channels: u32,
    vector_channels: u32,
    height: u32,
    width: u32,
    patch_size: u32,
    channel_first: u32,
    factor: f32,
}
