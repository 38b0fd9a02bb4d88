//! Matrix products: any transposes, optionally batched, with bias, or accumulating.

use std::sync::Arc;

use super::matmul_joined::MatMulJoined;
use super::sum_rows::add_up;
use super::{SumRows, independent, word};
use crate::gpu::{Dispatch, Kernel, Params, grid_1d, shader, shader_struct};
use crate::graph::{Binding, Choice, DType, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// `C = A·B`, `A·B + bias`, or with `accumulate` `C += A·B`.
///
/// Inputs `A [.., M, K]` (or `[.., K, M]` if transposed), `B [K, N]` (or `[N, K]`) and, optionally, `bias [N]`.
/// Without `batched`, the leading dimensions of `A` count as rows. With it, both operands have one leading
/// dimension over which products are independent.
///
/// `B` may be frozen weights of 16 or 8 bits: kernels decode them when they load them, exactly and in integer
/// arithmetic, so that a product has the same bits as with the decoded weights in f32. They have no gradient.
///
/// In every kernel, each element is summed over K in increasing order in one invocation: a row's bits do not
/// depend on the rows around it, nor on the kernel if the device rounds correctly. Only a product that
/// accumulates into a stored tensor, with a second output for [`MatMul::scratch`], may split K into slices whose
/// sums are added in a second pass: gradients of weights have small outputs, and their K is all rows of a
/// batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct MatMul {
    /// `A` is stored as its transpose.
    pub transpose_a: bool,
    /// `B` is stored as its transpose.
    pub transpose_b: bool,
    /// Both operands have a leading batch dimension.
    pub batched: bool,
    /// Add to the output, which is a stored tensor.
    pub accumulate: bool,
    /// The type of `B`.
    pub weights: DType,
}

/// `y = x·Wᵀ + b`: `x [.., K]`, `weight [N, K]`, `bias [N]` to `[.., N]`. Without a bias, `y = x·Wᵀ`.
pub fn linear(graph: &mut Graph, x: Tensor, weight: Tensor, bias: Option<Tensor>) -> Tensor {
    let inputs: Vec<Tensor> = [x, weight].into_iter().chain(bias).collect();
    graph.apply(MatMul { transpose_b: true, weights: graph.dtype(weight), ..MatMul::default() }, &inputs)
}

/// The kernels; their names can be forced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// `matmul_register`: runs everywhere.
    Register,
    /// `matmul_subgroup`, with this many lanes per subgroup and rows per tile.
    Subgroup { lanes: u32, rows: usize },
    /// Tiles in workgroup memory.
    Tiled(Tile),
}

/// Kernels with tiles of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    /// For operands of any shape, and for those whose rows consist of whole vectors.
    kernels: [&'static str; 2],
    rows: usize,
    columns: usize,
}

const SMALL_TILE: Tile = Tile { kernels: ["matmul_tiled", "matmul_tiled_vec4"], rows: 64, columns: 64 };
const LARGE_TILE: Tile = Tile { kernels: ["matmul_tile128", "matmul_tile128_vec4"], rows: 128, columns: 64 };
const SQUARE_TILE: Tile = Tile { kernels: ["matmul_square128", "matmul_square128_vec4"], rows: 128, columns: 128 };

/// Every variant by name; those of subgroups with the rows of a tile.
pub(super) const KERNELS: [(&str, Option<usize>); 7] = [
    ("matmul_register", None),
    ("matmul_tiled", None),
    ("matmul_tile128", None),
    ("matmul_square128", None),
    ("matmul_subgroup", Some(SUBGROUP_ROWS)),
    ("matmul_subgroup.ROWS=8", Some(8)),
    ("matmul_subgroup.ROWS=4", Some(4)),
];

impl Variant {
    /// The variant with this name, if the device can run it.
    fn named(name: &str, profile: &DeviceProfile) -> Option<Self> {
        let (_, rows) = KERNELS.iter().find(|(known, _)| *known == name)?;
        if let Some(rows) = rows {
            return profile.subgroup_size.map(|lanes| Self::Subgroup { lanes, rows: *rows });
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
pub(super) struct Geometry {
    batches: usize,
    m: usize,
    /// Columns of the result.
    pub(super) n: usize,
    /// Number of products summed in each element.
    pub(super) k: usize,
    /// Strides of `A` along rows and along K.
    a: [usize; 2],
    /// Strides of `B` along K and along columns.
    b: [usize; 2],
    /// The type of `B`.
    weights: DType,
}

impl MatMul {
    /// Shape `[slices, M, N]` of the scratch tensor for the partial sums of a large K, if this accumulating product
    /// benefits from one.
    pub fn scratch(&self, a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
        let geometry = self.geometry(a, b);
        let slices = geometry.k.div_ceil(geometry.slice());
        (self.accumulate && !self.batched && slices > 1).then(|| vec![slices, geometry.m, geometry.n])
    }

    /// The product without its number of rows: the name under which measurements are stored. The K of an accumulating
    /// product is all rows of a batch, so the gradient of a weight is named after its own sizes, M and N. Each type of
    /// weights is its own workload.
    fn workload(&self, geometry: &Geometry) -> String {
        let Self { transpose_a, transpose_b, batched, accumulate, weights } = self;
        let (other, size) = if *accumulate { ("m", geometry.m) } else { ("k", geometry.k) };
        let marks =
            [(*transpose_a, " at"), (*transpose_b, " bt"), (*batched, " batched"), (*accumulate, " accumulate")];
        let marks: String = marks.iter().filter(|(is_set, _)| *is_set).map(|(_, mark)| *mark).collect();
        let weights = if *weights == DType::F32 { String::new() } else { format!(" {weights}") };
        format!("matmul n={} {other}={size}{marks}{weights}", geometry.n)
    }

    /// The requested variant, or else the usual one. It does not depend on the epilogue: whether a value is kept
    /// must not change its bits.
    pub(super) fn variant(&self, geometry: &Geometry, profile: &DeviceProfile) -> Variant {
        let asked = profile.wanted(&self.workload(geometry)).find_map(|name| Variant::named(name, profile));
        let usual = || Variant::named(self.usual(geometry, profile), profile);
        asked.or_else(usual).expect("the usual variant runs on every device")
    }

    /// Software drivers need few loads and no barriers; GPUs need tiles in workgroup memory, but with few columns
    /// or a short K those would be mostly empty. Never a function of the number of rows: M counts only in gradients of
    /// weights, where K is the rows of the batch.
    fn usual(&self, geometry: &Geometry, profile: &DeviceProfile) -> &'static str {
        match profile.subgroup_size {
            Some(_) if profile.cpu => "matmul_subgroup",
            None if profile.cpu => "matmul_register",
            _ if self.fills_large_tiles(geometry) => "matmul_tile128",
            _ if self.accumulate || (geometry.n >= 32 && geometry.k >= 16) => "matmul_tiled",
            _ => "matmul_register",
        }
    }

    fn fills_large_tiles(&self, geometry: &Geometry) -> bool {
        let is_large = if self.accumulate { geometry.m >= LARGE_TILE.rows } else { geometry.k >= 32 };
        is_large && geometry.n >= LARGE_TILE.columns
    }

    pub(super) fn geometry(&self, a: &[usize], b: &[usize]) -> Geometry {
        let matrix = |shape: &[usize]| {
            let columns = shape[shape.len() - 1];
            let first = usize::from(self.batched);
            (shape[first..shape.len() - 1].iter().product::<usize>(), columns)
        };
        let ((a_rows, a_columns), (b_rows, b_columns)) = (matrix(a), matrix(b));
        let (m, k) = if self.transpose_a { (a_columns, a_rows) } else { (a_rows, a_columns) };
        let (n, k_of_b) = if self.transpose_b { (b_rows, b_columns) } else { (b_columns, b_rows) };
        assert_eq!(k, k_of_b, "inner sizes must match: {a:?} by {b:?} in {self:?}");
        let batches = if self.batched { a[0] } else { 1 };
        assert!(!self.batched || b[0] == batches, "both operands must have the same number of batches");
        Geometry {
            batches,
            m,
            n,
            k,
            a: if self.transpose_a { [1, a_columns] } else { [a_columns, 1] },
            b: if self.transpose_b { [1, b_columns] } else { [b_columns, 1] },
            weights: self.weights,
        }
    }
}

shader_struct! {
    pub(super) struct MatMulParams {
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
    fn slice(&self) -> usize {
        let tiles = self.m.div_ceil(SMALL_TILE.rows) * self.n.div_ceil(SMALL_TILE.columns);
        let slices = (ENOUGH_TILES / tiles).max(1);
        self.k.div_ceil(slices).max(SHORTEST_SLICE).next_multiple_of(16)
    }

    /// Whether both operands can be read four elements at a time. Depends on the length of rows, not on their number:
    /// of the two strides one is 1, and the other is the length of a row.
    fn has_vectors(&self) -> bool {
        [self.a, self.b].iter().all(|strides| strides.contains(&1) && strides.iter().any(|stride| stride % 4 == 0))
    }

    /// One dispatch of a kernel; with a `slice`, it has one result per slice of K.
    pub(super) fn dispatch(
        &self,
        variant: Variant,
        [a, b, bias]: [Binding; 3],
        has_bias: bool,
        epilogue: &Epilogue<'_>,
        slice: Option<usize>,
    ) -> Dispatch<Binding> {
        let (kernel, [rows, columns]) = match variant {
            Variant::Register => (Kernel::new("matmul_register"), [4, 4]),
            Variant::Tiled(Tile { kernels, rows, columns }) => {
                (Kernel::new(kernels[usize::from(self.has_vectors())]), [rows, columns])
            }
            Variant::Subgroup { lanes, rows } => {
                let columns = if self.n > lanes as usize { 2 } else { 1 };
                let kernel = Kernel::new("matmul_subgroup").with("SUBGROUP", lanes).with("COLUMNS", columns);
                (kernel.with("ROWS", word(rows)), [rows, (lanes * columns) as usize])
            }
        };
        let kernel = kernel.with("EPILOGUE", shader::epilogue(epilogue.name)).with("WEIGHTS", loader(self.weights));
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

/// What a kernel does with the elements it has computed.
pub(super) struct Epilogue<'a> {
    /// File in `shaders/epilogues`.
    pub(super) name: &'a str,
    /// What it reads besides the product.
    pub(super) reads: &'a [Binding],
    /// What it writes.
    pub(super) writes: &'a [Binding],
    /// Add to the existing values.
    pub(super) accumulate: bool,
    /// Rows that share a gate.
    pub(super) tokens: usize,
    /// Also write the product itself.
    pub(super) keep: bool,
}

impl Op for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn input_type(&self, index: usize) -> DType {
        if index == 1 { self.weights } else { DType::F32 }
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let is_plain = self.weights == DType::F32;
        assert!(is_plain || !(self.transpose_a || self.batched || self.accumulate), "frozen weights: {self:?}");
        let geometry = self.geometry(inputs[0], inputs[1]);
        if let Some(bias) = inputs.get(2) {
            assert_eq!(*bias, [geometry.n], "the bias needs one element per column");
        }
        let mut shape = match (self.batched, self.transpose_a) {
            (true, _) => vec![geometry.batches, geometry.m],
            (false, true) => vec![geometry.m],
            (false, false) => inputs[0][..inputs[0].len() - 1].to_vec(),
        };
        shape.push(geometry.n);
        vec![shape]
    }

    fn vjp(
        &self,
        graph: &mut Graph,
        inputs: &[Tensor],
        _: &[Tensor],
        gradients: &[Option<Tensor>],
        wanted: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        let [a, b] = [inputs[0], inputs[1]];
        let Some(dc) = gradients[0] else { return vec![None; inputs.len()] };
        assert!(self.weights == DType::F32 || wanted[1] == Wanted::No, "weights of {} are frozen", self.weights);
        // C = op(A)·op(B): the four cases of dA = dC·op(B)ᵀ and dB = op(A)ᵀ·dC, each as a product that reads
        // its operands as stored.
        let da = match (self.transpose_a, self.transpose_b) {
            (false, transpose_b) => ([dc, b], false, !transpose_b),
            (true, false) => ([b, dc], false, true),
            (true, true) => ([b, dc], true, true),
        };
        let db = match (self.transpose_a, self.transpose_b) {
            (false, false) => ([a, dc], true, false),
            (false, true) => ([dc, a], true, false),
            (true, false) => ([a, dc], false, false),
            (true, true) => ([dc, a], true, true),
        };
        let mut found: Vec<Option<Tensor>> = [da, db]
            .into_iter()
            .zip(wanted)
            .map(|((operands, transpose_a, transpose_b), want)| {
                let product =
                    Self { transpose_a, transpose_b, batched: self.batched, accumulate: false, weights: self.weights };
                match want {
                    Wanted::No => None,
                    Wanted::Fresh => Some(graph.apply(product, &operands)),
                    Wanted::Into(target) => {
                        let product = Self { accumulate: true, ..product };
                        let scratch = product.scratch(graph.shape(operands[0]), graph.shape(operands[1]));
                        let scratch = scratch.map(|shape| graph.scratch(&shape));
                        let outputs: Vec<Tensor> = [*target].into_iter().chain(scratch).collect();
                        graph.push_into(product, &operands, &outputs);
                        None
                    }
                }
            })
            .collect();
        if inputs.len() > 2 {
            let columns = graph.shape(inputs[2])[0];
            let sum = SumRows { outer: 1, columns, accumulate: false };
            found.push(sum.of(graph, dc, wanted[2]));
        }
        found
    }

    fn dispatches(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let geometry = self.geometry(shapes.inputs[0], shapes.inputs[1]);
        let variant = self.variant(&geometry, profile);
        let has_bias = shapes.inputs.len() > 2;
        // Without a bias, an operand fills its binding; the kernel does not read it there.
        let reads = [0, 1, if has_bias { 2 } else { 0 }].map(Binding::Input);
        let [c, partial] = [0, 1].map(|index| [Binding::Output(index)]);
        let into =
            |writes, accumulate| Epilogue { name: "none", reads: &[], writes, accumulate, tokens: 1, keep: false };
        if shapes.outputs.len() < 2 || !matches!(variant, Variant::Tiled(_)) {
            return vec![geometry.dispatch(variant, reads, has_bias, &into(&c, self.accumulate), None)];
        }
        vec![
            geometry.dispatch(variant, reads, false, &into(&partial, false), Some(geometry.slice())),
            add_up(partial[0], c[0], geometry.k.div_ceil(geometry.slice()), geometry.m * geometry.n),
        ]
    }

    fn choice(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Option<Choice> {
        let geometry = self.geometry(shapes.inputs[0], shapes.inputs[1]);
        let names = KERNELS.iter().map(|(name, _)| *name);
        Some(Choice {
            workload: self.workload(&geometry),
            kernels: names.filter(|name| Variant::named(name, profile).is_some()).collect(),
            usual: self.usual(&geometry, profile),
        })
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let geometry = self.geometry(shapes.inputs[0], shapes.inputs[1]);
        let mut c = Vec::with_capacity(geometry.batches * geometry.m * geometry.n);
        for batch in 0..geometry.batches {
            let a = &inputs[0][batch * geometry.m * geometry.k..];
            let b = &inputs[1][batch * geometry.k * geometry.n..];
            for row in 0..geometry.m {
                for column in 0..geometry.n {
                    let start = inputs.get(2).map_or(0.0, |bias| bias[column]);
                    let product = |k: usize| {
                        a[row * geometry.a[0] + k * geometry.a[1]] * b[k * geometry.b[0] + column * geometry.b[1]]
                    };
                    c.push(start + (0..geometry.k).map(product).sum::<f64>());
                }
            }
        }
        // The twin leaves the scratch zero: nothing reads it.
        let scratch = (1..shapes.outputs.len()).map(|index| vec![0.0; shapes.output_elements(index)]);
        [c].into_iter().chain(scratch).collect()
    }

    fn accumulates(&self) -> bool {
        self.accumulate
    }

    fn joined_with(&self, next: &str, place: usize, keep: bool) -> Option<Arc<dyn Op>> {
        let product = (!self.batched && !self.accumulate).then_some(*self)?;
        Some(Arc::new(MatMulJoined::new(product, next, place, keep)?))
    }

    fn flops(&self, shapes: &Shapes<'_>) -> u64 {
        let geometry = self.geometry(shapes.inputs[0], shapes.inputs[1]);
        2 * (geometry.batches * geometry.m * geometry.n * geometry.k) as u64
    }
}
