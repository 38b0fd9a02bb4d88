// The settings of DiffusionNFT's loss.
struct NftSettings {
    beta: f32,
    clip: f32,
}
