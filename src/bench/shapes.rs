//! The shapes at which ops with several kernels are tested and measured: one table for the tests of ops, `cargo bench`
//! and `flowdppo-wgpu bench`, so that nothing is measured that no test covers.

/// What uses a shape. Tests use all of them, those of benchmarks with fewer rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Tests: sizes at which indices go wrong, such as 1, and one more than a tile.
    Tests,
    /// Tests that may take minutes: sizes of large models.
    LongTests,
    /// `flowdppo-wgpu bench`: sizes that networks have.
    Bench,
    /// `cargo bench` too: those that take milliseconds on any device.
    QuickBench,
}

/// A shape of an op, and what uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape<const N: usize> {
    /// Its sizes; each table says which.
    pub sizes: [usize; N],
    /// What uses it.
    pub used: Use,
}

const fn odd<const N: usize>(sizes: [usize; N]) -> Shape<N> {
    Shape { sizes, used: Use::Tests }
}

const fn long<const N: usize>(sizes: [usize; N]) -> Shape<N> {
    Shape { sizes, used: Use::LongTests }
}

const fn real<const N: usize>(sizes: [usize; N]) -> Shape<N> {
    Shape { sizes, used: Use::Bench }
}

const fn quick<const N: usize>(sizes: [usize; N]) -> Shape<N> {
    Shape { sizes, used: Use::QuickBench }
}

/// Linear layers, `x·Wᵀ`: rows, outputs, inputs.
pub const LINEAR: &[Shape<3>] = &[
    odd([1, 1, 1]),
    odd([2, 3, 5]),
    odd([4, 4, 4]),
    odd([7, 1, 13]),
    odd([1, 17, 3]),
    odd([33, 18, 65]),
    odd([64, 48, 32]),
    odd([132, 68, 52]),
    odd([131, 67, 36]),
    odd([3, 131, 1536]),
    odd([67, 200, 33]),
    long([3, 131, 6144]),
    long([129, 1536, 384]),
    long([66, 384, 1536]),
    quick([256, 256, 256]),
    real([256, 512, 128]),
    quick([2048, 384, 128]),
    quick([512, 512, 512]),
    quick([2048, 512, 128]),
    quick([2560, 256, 64]),
    real([1024, 1024, 1024]),
    real([2048, 1536, 384]),
    real([4096, 4096, 4096]),
];

/// Attention: batch, tokens, heads, elements of a head.
pub const ATTENTION: &[Shape<4>] = &[
    odd([1, 1, 1, 1]),
    odd([2, 2, 3, 5]),
    odd([3, 7, 1, 8]),
    odd([2, 16, 4, 16]),
    odd([1, 64, 1, 5]),
    odd([2, 65, 1, 8]),
    odd([2, 17, 1, 1]),
    odd([1, 3, 3, 72]),
    odd([1, 65, 2, 36]),
    long([1, 129, 1, 32]),
    long([1, 257, 1, 32]),
    long([1, 129, 1, 64]),
    long([1, 257, 1, 64]),
    long([1, 129, 1, 72]),
    long([1, 257, 1, 72]),
    quick([40, 16, 4, 16]),
    quick([32, 64, 4, 32]),
    real([32, 64, 4, 64]),
    real([32, 256, 4, 32]),
    real([32, 256, 4, 64]),
    real([32, 1024, 4, 32]),
    real([32, 1024, 4, 64]),
    // Stable Diffusion 3.5 medium: 512x512 pixels and 154 tokens of text.
    real([1, 1178, 24, 64]),
];

/// Layer norm with modulation: batch, tokens, columns.
pub const LAYER_NORM: &[Shape<3>] =
    &[odd([1, 1, 5]), odd([2, 3, 7]), odd([5, 16, 64]), odd([3, 65, 33]), odd([2, 130, 68]), quick([32, 64, 128])];

/// Convolutions of autoencoders with kernels of 3x3 that keep the size of a picture: input channels, output channels,
/// rows and columns of the picture.
pub const CONV2D: &[Shape<3>] = &[
    odd([3, 128, 32]),
    odd([128, 128, 32]),
    odd([128, 3, 32]),
    odd([16, 512, 8]),
    odd([512, 8, 8]),
    quick([512, 512, 32]),
    real([256, 256, 128]),
    real([128, 128, 256]),
];

/// The shapes that `flowdppo-wgpu bench` measures.
pub fn measured<const N: usize>(table: &[Shape<N>]) -> impl Iterator<Item = [usize; N]> {
    table.iter().filter(|shape| matches!(shape.used, Use::Bench | Use::QuickBench)).map(|shape| shape.sizes)
}

/// The shapes that `cargo bench` measures.
pub fn quickly_measured<const N: usize>(table: &[Shape<N>]) -> impl Iterator<Item = [usize; N]> {
    table.iter().filter(|shape| shape.used == Use::QuickBench).map(|shape| shape.sizes)
}

/// The shapes that tests use, each once; with `long` those that take minutes, too. Of a measured one `cut` keeps what
/// the choice of a kernel depends on, which never are the rows.
pub fn tested<const N: usize>(
    table: &[Shape<N>],
    long: bool,
    cut: impl Fn([usize; N]) -> [usize; N],
) -> Vec<[usize; N]> {
    let mut found = Vec::new();
    for Shape { sizes, used } in table {
        let sizes = match used {
            Use::Tests => *sizes,
            Use::LongTests if !long => continue,
            Use::LongTests => *sizes,
            Use::Bench | Use::QuickBench => cut(*sizes),
        };
        if !found.contains(&sizes) {
            found.push(sizes);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_measured_is_tested_with_fewer_rows() {
        let table = [odd([1, 2]), long([3, 4]), real([900, 8]), quick([800, 8]), quick([700, 16])];
        let cut = |[rows, columns]: [usize; 2]| [rows.min(5), columns];
        assert_eq!(tested(&table, false, cut), [[1, 2], [5, 8], [5, 16]]);
        assert_eq!(tested(&table, true, cut), [[1, 2], [3, 4], [5, 8], [5, 16]]);
        assert_eq!(measured(&table).collect::<Vec<_>>(), [[900, 8], [800, 8], [700, 16]]);
        assert_eq!(quickly_measured(&table).collect::<Vec<_>>(), [[800, 8], [700, 16]]);
    }
}
