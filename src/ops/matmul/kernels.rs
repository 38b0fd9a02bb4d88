//! The kernels of matrix products: which there are, and their dispatches.

use crate::gpu::{Dispatch, Kernel, Matrices, Params, grid_1d, shader, shader_struct};
use crate::graph::{Binding, DType, DeviceProfile};
use crate::ops::{independent, word};

/// The kernels; their names can be forced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum Variant {
    /// `matmul_register`: runs everywhere.
    Register,
    /// `matmul_subgroup`, with this many lanes per subgroup and rows per tile.
    Subgroup { lanes: u32, rows: usize },
    /// Tiles in workgroup memory.
    Tiled(Tile),
    /// `matmul_cooperative`: tiles of 16 bits, multiplied as matrices.
    Cooperative(Matrices),
}

/// Kernels with tiles of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) struct Tile {
    /// For operands of any shape, and for those whose rows consist of whole vectors.
    kernels: [&'static str; 2],
    pub(in crate::ops) rows: usize,
    pub(in crate::ops) columns: usize,
}

pub(in crate::ops) const SMALL_TILE: Tile =
    Tile { kernels: ["matmul_tiled", "matmul_tiled_vec4"], rows: 64, columns: 64 };
pub(in crate::ops) const LARGE_TILE: Tile =
    Tile { kernels: ["matmul_tile128", "matmul_tile128_vec4"], rows: 128, columns: 64 };
const SQUARE_TILE: Tile = Tile { kernels: ["matmul_square128", "matmul_square128_vec4"], rows: 128, columns: 128 };

/// The same for products as matrices.
const COOPERATIVE: Tile = Tile { kernels: ["matmul_cooperative", "matmul_cooperative_vec4"], rows: 128, columns: 64 };

/// Every variant by name; those of subgroups with the rows of a tile.
pub(in crate::ops) const KERNELS: [(&str, Option<usize>); 8] = [
    ("matmul_register", None),
    ("matmul_tiled", None),
    ("matmul_tile128", None),
    ("matmul_square128", None),
    ("matmul_cooperative", None),
    ("matmul_subgroup", Some(SUBGROUP_ROWS)),
    ("matmul_subgroup.ROWS=8", Some(8)),
    ("matmul_subgroup.ROWS=4", Some(4)),
];

impl Variant {
    /// The variant with this name, if the device can run it for products of this precision.
    pub(in crate::ops) fn named(name: &str, profile: &DeviceProfile, precision: DType) -> Option<Self> {
        let (_, rows) = KERNELS.iter().find(|(known, _)| *known == name)?;
        if let Some(rows) = rows {
            return profile.subgroup_size.map(|lanes| Self::Subgroup { lanes, rows: *rows });
        }
        if name == COOPERATIVE.kernels[0] {
            return profile.matrices.filter(|_| precision == DType::F16).map(Self::Cooperative);
        }
        let tile = [SMALL_TILE, LARGE_TILE, SQUARE_TILE].into_iter().find(|tile| tile.kernels[0] == name);
        Some(tile.map_or(Self::Register, Self::Tiled))
    }
}

/// Workgroups that fill a GPU: K is sliced until there are about this many.
const ENOUGH_TILES: usize = 256;

/// Shortest slice of K: the second pass of a shorter one costs more than it saves.
const SHORTEST_SLICE: usize = 128;

/// Rows of a tile of `matmul_subgroup`, unless another number was measured to be faster.
const SUBGROUP_ROWS: usize = 16;

/// Sizes and strides of a product, in elements.
pub(in crate::ops) struct Geometry {
    pub(in crate::ops) batches: usize,
    pub(in crate::ops) m: usize,
    /// Columns of the result.
    pub(in crate::ops) n: usize,
    /// Number of products summed in each element.
    pub(in crate::ops) k: usize,
    /// Strides of `A` along rows and along K.
    pub(in crate::ops) a: [usize; 2],
    /// Strides of `B` along K and along columns.
    pub(in crate::ops) b: [usize; 2],
    /// The type of `B`.
    pub(in crate::ops) weights: DType,
    /// What elements of both operands are rounded to.
    pub(in crate::ops) precision: DType,
}

shader_struct! {
    pub(in crate::ops) struct MatMulParams {
        batches: u32,
        m: u32,
        n: u32,
        k: u32,
        a_batch: u32,
        a_row: u32,
        a_k: u32,
        b_batch: u32,
        b_k: u32,
        b_column: u32,
        tiles_m: u32,
        tiles_n: u32,
        k_slice: u32,
        k_step: u32,
        has_bias: u32,
        accumulate: u32,
        tokens: u32,
        keep: u32,
    }
}

impl Geometry {
    /// Length of a slice of K: the same for all tiles, because the graph has the tensor for the sums of slices.
    pub(in crate::ops) fn slice(&self) -> usize {
        let tiles = self.m.div_ceil(SMALL_TILE.rows) * self.n.div_ceil(SMALL_TILE.columns);
        let slices = (ENOUGH_TILES / tiles).max(1);
        self.k.div_ceil(slices).max(SHORTEST_SLICE).next_multiple_of(16)
    }

    /// Whether both operands can be read four elements at a time. Depends on the length of rows, not on their number:
    /// of the two strides one is 1, and the other is the length of a row.
    fn has_vectors(&self) -> bool {
        [self.a, self.b].iter().all(|strides| strides.contains(&1) && strides.iter().any(|stride| stride % 4 == 0))
    }

    /// The kernel of a variant, and the rows and columns of its tiles.
    fn kernel(&self, variant: Variant) -> (Kernel, [usize; 2]) {
        let of_tile = |Tile { kernels, rows, columns }: Tile| {
            (Kernel::new(kernels[usize::from(self.has_vectors())]), [rows, columns])
        };
        match variant {
            Variant::Register => (Kernel::new("matmul_register"), [4, 4]),
            Variant::Tiled(tile) => of_tile(tile),
            Variant::Cooperative(Matrices { side, lanes }) => {
                let (kernel, tile) = of_tile(COOPERATIVE);
                let matrices = shader::matrices(if side == 8 { "8" } else { "16" });
                (kernel.with("MATRICES", matrices).with("SUBGROUP", lanes), tile)
            }
            Variant::Subgroup { lanes, rows } => {
                let columns = if self.n > lanes as usize { 2 } else { 1 };
                let kernel = Kernel::new("matmul_subgroup").with("SUBGROUP", lanes).with("COLUMNS", columns);
                (kernel.with("ROWS", word(rows)), [rows, (lanes * columns) as usize])
            }
        }
    }

    /// One dispatch of a kernel; with a `slice`, it has one result per slice of K.
    pub(in crate::ops) fn dispatch(
        &self,
        (variant, profile): (Variant, &DeviceProfile),
        [a, b, bias]: [Binding; 3],
        has_bias: bool,
        epilogue: &Epilogue<'_>,
        slice: Option<usize>,
    ) -> Dispatch<Binding> {
        let (kernel, [rows, columns]) = self.kernel(variant);
        let kernel = kernel.with("EPILOGUE", shader::epilogue(epilogue.name)).with("WEIGHTS", loader(self.weights));
        let kernel = match variant {
            Variant::Cooperative(_) => kernel,
            _ => kernel.with("PRECISION", rounding(self.precision, profile)),
        };
        let (tiles_m, tiles_n) = (self.m.div_ceil(rows), self.n.div_ceil(columns));
        let (batches, a_batch, b_batch) = match slice {
            None => (self.batches, self.m * self.k, self.k * self.n),
            Some(slice) => (self.k.div_ceil(slice), slice * self.a[1], slice * self.b[0]),
        };
        let params = MatMulParams {
            batches: word(batches),
            m: word(self.m),
            n: word(self.n),
            k: word(self.k),
            a_batch: word(a_batch),
            a_row: word(self.a[0]),
            a_k: word(self.a[1]),
            b_batch: word(b_batch),
            b_k: word(self.b[0]),
            b_column: word(self.b[1]),
            tiles_m: word(tiles_m),
            tiles_n: word(tiles_n),
            k_slice: word(slice.unwrap_or(self.k)),
            k_step: word(slice.unwrap_or(0)),
            has_bias: has_bias.into(),
            accumulate: epilogue.accumulate.into(),
            tokens: word(epilogue.tokens),
            keep: epilogue.keep.into(),
        };
        let reads = [&[a, b, bias], epilogue.reads].concat();
        let tiles = batches * tiles_m * tiles_n;
        match variant {
            Variant::Register => independent(kernel, &reads, epilogue.writes, &params, tiles),
            _ => Dispatch {
                kernel,
                reads,
                writes: epilogue.writes.to_vec(),
                params: Params::of(&params),
                grid: grid_1d(tiles as u64),
            },
        }
    }
}

/// The number of the file in `shaders/weights` that loads weights of this type.
fn loader(weights: DType) -> u32 {
    match weights {
        DType::F32 => shader::weights("f32"),
        DType::F16 => shader::weights("f16"),
        DType::Q8_0 => shader::weights("q8_0"),
        DType::U32 => panic!("weights cannot be indices"),
    }
}

/// The number of the file in `shaders/precision` that rounds operands.
fn rounding(precision: DType, profile: &DeviceProfile) -> u32 {
    match precision {
        DType::F16 if profile.rounds_to_half => shader::precision("f16"),
        DType::F16 => shader::precision("f16_integer"),
        _ => shader::precision("f32"),
    }
}

/// What a kernel does with the elements it has computed.
pub(in crate::ops) struct Epilogue<'a> {
    /// File in `shaders/epilogues`.
    pub(in crate::ops) name: &'a str,
    /// What it reads besides the product.
    pub(in crate::ops) reads: &'a [Binding],
    /// What it writes.
    pub(in crate::ops) writes: &'a [Binding],
    /// Add to the existing values.
    pub(in crate::ops) accumulate: bool,
    /// Rows that share a gate.
    pub(in crate::ops) tokens: usize,
    /// Also write the product itself.
    pub(in crate::ops) keep: bool,
}
