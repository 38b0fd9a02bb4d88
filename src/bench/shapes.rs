//! The shapes at which ops with several kernels are tested and measured, and the sizes of the transformers that they come
//! from: one table for the tests of ops, `cargo bench`, `flowdppo-wgpu bench` and `tools/isa`, so that nothing is measured
//! that no test covers.

/// Sizes of a transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transformer {
    /// Its name.
    pub name: &'static str,
    /// Columns of a token.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Columns between the layers of an MLP.
    pub mlp: usize,
}

impl Transformer {
    /// Elements of a head.
    pub const fn head_dim(&self) -> usize {
        self.width / self.heads
    }
}

/// The network of `bench dit-step`.
pub const BENCHMARKED: Transformer = Transformer { name: "benchmark network", width: 128, heads: 4, mlp: 512 };

/// Stable Diffusion 3.5 medium.
pub const SD35_MEDIUM: Transformer = Transformer { name: "SD3.5-medium", width: 1536, heads: 24, mlp: 6144 };

/// Tokens of a prompt there: 77 of CLIP and 77 of T5.
pub const SD35_TEXT: usize = 154;

/// The rank of adapters in the configurations that train it.
pub const SD35_RANK: usize = 32;

/// The transformers whose kernels matter, by width.
pub const TRANSFORMERS: [Transformer; 4] = [
    BENCHMARKED,
    Transformer { name: "SiT-S", width: 384, heads: 6, mlp: 1536 },
    Transformer { name: "SiT-XL", width: 1152, heads: 16, mlp: 4608 },
    SD35_MEDIUM,
];

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
    /// `flowdppo-wgpu bench large`: a sample of Stable Diffusion 3.5 at 512 and 1024 px.
    LargeBench,
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

const fn large<const N: usize>(sizes: [usize; N]) -> Shape<N> {
    Shape { sizes, used: Use::LargeBench }
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
    large([1178, 1536, 1536]),
    large([1178, 4608, 1536]),
    large([1178, 6144, 1536]),
    large([1178, 1536, 6144]),
    large([4250, 1536, 1536]),
    large([4250, 4608, 1536]),
    large([4250, 6144, 1536]),
    large([4250, 1536, 6144]),
    // The matrices of an adapter on such a layer.
    large([1178, 32, 1536]),
    large([1178, 1536, 32]),
    large([4250, 32, 1536]),
    large([4250, 1536, 32]),
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
    large([1, 1178, 24, 64]),
    large([1, 4250, 24, 64]),
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

/// The shapes that `flowdppo-wgpu bench large` measures.
pub fn measured_large<const N: usize>(table: &[Shape<N>]) -> impl Iterator<Item = [usize; N]> {
    table.iter().filter(|shape| shape.used == Use::LargeBench).map(|shape| shape.sizes)
}

/// The shapes that `cargo bench` measures.
pub fn quickly_measured<const N: usize>(table: &[Shape<N>]) -> impl Iterator<Item = [usize; N]> {
    table.iter().filter(|shape| shape.used == Use::QuickBench).map(|shape| shape.sizes)
}

/// The shapes that tests use, each once; with `long` those of large models, which take minutes, too. Of a measured one
/// `cut` keeps what the choice of a kernel depends on, which never are the rows.
pub fn tested<const N: usize>(
    table: &[Shape<N>],
    long: bool,
    cut: impl Fn([usize; N]) -> [usize; N],
) -> Vec<[usize; N]> {
    let mut found = Vec::new();
    for Shape { sizes, used } in table {
        let sizes = match used {
            Use::Tests => *sizes,
            Use::LongTests | Use::LargeBench if !long => continue,
            Use::LongTests => *sizes,
            Use::Bench | Use::QuickBench | Use::LargeBench => cut(*sizes),
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
        let table = [odd([1, 2]), long([3, 4]), real([900, 8]), quick([800, 8]), quick([700, 16]), large([600, 32])];
        let cut = |[rows, columns]: [usize; 2]| [rows.min(5), columns];
        assert_eq!(tested(&table, false, cut), [[1, 2], [5, 8], [5, 16]]);
        assert_eq!(tested(&table, true, cut), [[1, 2], [3, 4], [5, 8], [5, 16], [5, 32]]);
        assert_eq!(measured_large(&table).collect::<Vec<_>>(), [[600, 32]]);
        assert_eq!(measured(&table).collect::<Vec<_>>(), [[900, 8], [800, 8], [700, 16]]);
        assert_eq!(quickly_measured(&table).collect::<Vec<_>>(), [[800, 8], [700, 16]]);
    }

    #[test]
    fn large_shapes_are_those_of_the_model() {
        let Transformer { width, heads, mlp, .. } = SD35_MEDIUM;
        let rows = [512, 1024].map(|side: usize| (side / 16).pow(2) + SD35_TEXT);
        for [m, n, k] in measured_large(LINEAR) {
            let layers = [[width, width], [3 * width, width], [mlp, width], [width, mlp]];
            let adapters = [[SD35_RANK, width], [width, SD35_RANK]];
            assert!(rows.contains(&m) && (layers.contains(&[n, k]) || adapters.contains(&[n, k])), "{m}x{n}x{k}");
        }
        for [batch, tokens, num_heads, head_dim] in measured_large(ATTENTION) {
            assert_eq!([batch, num_heads, head_dim], [1, heads, SD35_MEDIUM.head_dim()]);
            assert!(rows.contains(&tokens));
        }
    }
}
