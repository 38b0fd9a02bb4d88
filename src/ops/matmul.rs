//! Matrix products: any transposes, optionally batched, with bias, or accumulating.

mod kernels;

use std::sync::Arc;

use half::f16;

pub(super) use kernels::{Epilogue, KERNELS, MatMulParams};
use kernels::{Geometry, LARGE_TILE, Variant};

use super::SumRows;
use super::matmul_joined::MatMulJoined;
use super::sum_rows::add_up;
use crate::gpu::Dispatch;
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
/// depend on the rows around it, nor on the kernel if the device rounds correctly. With `precision` F16 a device may
/// have instructions for small matrices, which add in an order of their own, the same for every row. Only a product that
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
    /// What the elements of both operands are rounded to before they are multiplied: `F32` leaves them as they are;
    /// `F16` keeps 11 significant bits up to 65504, and infinity beyond. Products and their sums are in f32 in any case.
    /// Gradients pass through as if nothing was rounded, and are products of the same precision.
    pub precision: DType,
}

/// `y = x·Wᵀ + b`: `x [.., K]`, `weight [N, K]`, `bias [N]` to `[.., N]`. Without a bias, `y = x·Wᵀ`.
pub fn linear(graph: &mut Graph, x: Tensor, weight: Tensor, bias: Option<Tensor>) -> Tensor {
    linear_in(DType::F32, graph, x, weight, bias)
}

/// The same as a product of this [`MatMul::precision`].
pub fn linear_in(precision: DType, graph: &mut Graph, x: Tensor, weight: Tensor, bias: Option<Tensor>) -> Tensor {
    let inputs: Vec<Tensor> = [x, weight].into_iter().chain(bias).collect();
    graph.apply(MatMul { transpose_b: true, weights: graph.dtype(weight), precision, ..MatMul::default() }, &inputs)
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
        let Self { transpose_a, transpose_b, batched, accumulate, weights, precision } = self;
        let (other, size) = if *accumulate { ("m", geometry.m) } else { ("k", geometry.k) };
        let marks =
            [(*transpose_a, " at"), (*transpose_b, " bt"), (*batched, " batched"), (*accumulate, " accumulate")];
        let marks: String = marks.iter().filter(|(is_set, _)| *is_set).map(|(_, mark)| *mark).collect();
        let weights = if *weights == DType::F32 { String::new() } else { format!(" {weights}") };
        let precision = if *precision == DType::F32 { String::new() } else { format!(" in {precision}") };
        format!("matmul n={} {other}={size}{marks}{weights}{precision}", geometry.n)
    }

    /// The requested variant, or else the usual one. It does not depend on the epilogue: whether a value is kept
    /// must not change its bits.
    pub(super) fn variant(&self, geometry: &Geometry, profile: &DeviceProfile) -> Variant {
        let named = |name: &str| Variant::named(name, profile, self.precision);
        let asked = profile.wanted(&self.workload(geometry)).find_map(named);
        let usual = || named(self.usual(geometry, profile));
        asked.or_else(usual).expect("the usual variant runs on every device")
    }

    /// Software drivers need few loads and no barriers; GPUs need tiles in workgroup memory, but with few columns
    /// or a short K those would be mostly empty. Never a function of the number of rows: M counts only in gradients of
    /// weights, where K is the rows of the batch.
    fn usual(&self, geometry: &Geometry, profile: &DeviceProfile) -> &'static str {
        match profile.subgroup_size {
            Some(_) if profile.cpu => "matmul_subgroup",
            None if profile.cpu => "matmul_register",
            _ if self.fills_large_tiles(geometry) && self.precision == DType::F16 && profile.matrices.is_some() => {
                "matmul_cooperative"
            }
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
            precision: self.precision,
        }
    }
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
                let product = Self { transpose_a, transpose_b, accumulate: false, ..*self };
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
        let kernel = (variant, profile);
        if shapes.outputs.len() < 2 || !matches!(variant, Variant::Tiled(_) | Variant::Cooperative(_)) {
            return vec![geometry.dispatch(kernel, reads, has_bias, &into(&c, self.accumulate), None)];
        }
        vec![
            geometry.dispatch(kernel, reads, false, &into(&partial, false), Some(geometry.slice())),
            add_up(partial[0], c[0], geometry.k.div_ceil(geometry.slice()), geometry.m * geometry.n),
        ]
    }

    fn choice(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Option<Choice> {
        let geometry = self.geometry(shapes.inputs[0], shapes.inputs[1]);
        let names = KERNELS.iter().map(|(name, _)| *name);
        Some(Choice {
            workload: self.workload(&geometry),
            kernels: names.filter(|name| Variant::named(name, profile, self.precision).is_some()).collect(),
            usual: self.usual(&geometry, profile),
        })
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let geometry = self.geometry(shapes.inputs[0], shapes.inputs[1]);
        let rounded = |value: f64| match self.precision {
            DType::F16 => f16::from_f64(value).to_f64(),
            _ => value,
        };
        let mut c = Vec::with_capacity(geometry.batches * geometry.m * geometry.n);
        for batch in 0..geometry.batches {
            let of_batch = |values: &[f64], size: usize| -> Vec<f64> {
                values[batch * size..][..size].iter().map(|value| rounded(*value)).collect()
            };
            let a = of_batch(inputs[0], geometry.m * geometry.k);
            let b = of_batch(inputs[1], geometry.k * geometry.n);
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
