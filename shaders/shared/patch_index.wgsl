// The position of element (channel, row, column) of an image in its patch vectors.
fn patch_index(image: u32, channel: u32, row: u32, column: u32) -> u32 {
    let down = params.height / params.patch_size;
    let across = params.width / params.patch_size;
    let token = (row / params.patch_size) * across + column / params.patch_size;
    let p = row % params.patch_size;
    let q = column % params.patch_size;
    let area = params.patch_size * params.patch_size;
    let within = select(
        (p * params.patch_size + q) * params.vector_channels + channel,
        (channel * params.patch_size + p) * params.patch_size + q,
        params.channel_first == 1u,
    );
    return ((image * down * across) + token) * area * params.vector_channels + within;
}
