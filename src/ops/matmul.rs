//! Matrix products: all transposes, batched, with bias, replacing or accumulating.

use super::{SumRows, independent, word};
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, Graph, Op, Profile, Shapes, Tensor, Wanted};

/// `C = A·B`, `A·B + bias`, or with `accumulate` `C += A·B`.
///
/// Inputs `A [.., M, K]` (or `[.., K, M]` if transposed), `B [K, N]` (or `[N, K]`) and, optionally, `bias [N]`.
/// Without `batched`, the leading dimensions of `A` count as rows. With it, both have one leading dimension
/// over which products are independent.
///
/// Every element is a sum over K in increasing order in one invocation, in every kernel: a row's bits do not
/// depend on the rows around it.
#[derive(Clone, Copy, Debug, Default)]
pub struct MatMul {
    /// `A` is stored as its transpose.
    pub transpose_a: bool,
    /// `B` is stored as its transpose.
    pub transpose_b: bool,
    /// Both operands have a leading batch dimension.
    pub batched: bool,
    /// Adds to the output, which is a stored tensor.
    pub accumulate: bool,
}

/// `y = x·Wᵀ + b`: `x [.., K]`, `weight [N, K]`, `bias [N]` to `[.., N]`.
pub fn linear(graph: &mut Graph, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor {
    graph.apply(MatMul { transpose_b: true, ..MatMul::default() }, &[x, weight, bias])
}

/// Sizes and strides of a product, in elements.
struct Geometry {
    batches: usize,
    m: usize,
    n: usize,
    k: usize,
    /// Strides of `A` along rows and along K.
    a: [usize; 2],
    /// Strides of `B` along K and along columns.
    b: [usize; 2],
}

impl MatMul {
    fn geometry(&self, a: &[usize], b: &[usize]) -> Geometry {
        let matrix = |shape: &[usize]| {
            let columns = shape[shape.len() - 1];
            let first = usize::from(self.batched);
            (shape[first..shape.len() - 1].iter().product::<usize>(), columns)
        };
        let ((a_rows, a_columns), (b_rows, b_columns)) = (matrix(a), matrix(b));
        let (m, k) = if self.transpose_a { (a_columns, a_rows) } else { (a_rows, a_columns) };
        let (n, k_of_b) = if self.transpose_b { (b_rows, b_columns) } else { (b_columns, b_rows) };
        assert_eq!(k, k_of_b, "inner sizes agree: {a:?} by {b:?} in {self:?}");
        let batches = if self.batched { a[0] } else { 1 };
        assert!(!self.batched || b[0] == batches, "both operands have one number of batches");
        Geometry {
            batches,
            m,
            n,
            k,
            a: if self.transpose_a { [1, a_columns] } else { [a_columns, 1] },
            b: if self.transpose_b { [1, b_columns] } else { [b_columns, 1] },
        }
    }
}

impl Op for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let it = self.geometry(inputs[0], inputs[1]);
        if let Some(bias) = inputs.get(2) {
            assert_eq!(*bias, [it.n], "a bias has an element a column");
        }
        let mut shape = match (self.batched, self.transpose_a) {
            (true, _) => vec![it.batches, it.m],
            (false, true) => vec![it.m],
            (false, false) => inputs[0][..inputs[0].len() - 1].to_vec(),
        };
        shape.push(it.n);
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
        // C = op(A)·op(B): the four cases of dA = dC·op(B)ᵀ and dB = op(A)ᵀ·dC, each as a product that reads
        // its operands as they are stored.
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
                let product = Self { transpose_a, transpose_b, batched: self.batched, accumulate: false };
                match want {
                    Wanted::No => None,
                    Wanted::Fresh => Some(graph.apply(product, &operands)),
                    Wanted::Into(target) => {
                        graph.push_into(Self { accumulate: true, ..product }, &operands, &[*target]);
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

    fn dispatches(&self, shapes: &Shapes<'_>, _: &Profile) -> Vec<Dispatch<Binding>> {
        let it = self.geometry(shapes.inputs[0], shapes.inputs[1]);
        let has_bias = shapes.inputs.len() > 2;
        // Without a bias its binding is filled by an operand that is not read there.
        let bias = Binding::Input(if has_bias { 2 } else { 0 });
        let (tiles_m, tiles_n) = (it.m.div_ceil(4), it.n.div_ceil(4));
        let mut params: Vec<u32> =
            [it.batches, it.m, it.n, it.k, it.a[0], it.a[1], it.b[0], it.b[1], tiles_m, tiles_n].map(word).to_vec();
        params.extend([u32::from(has_bias), u32::from(self.accumulate)]);
        let reads = [Binding::Input(0), Binding::Input(1), bias];
        let invocations = it.batches * tiles_m * tiles_n;
        vec![independent(Kernel::new("matmul"), &reads, &[Binding::Output(0)], params, invocations)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let it = self.geometry(shapes.inputs[0], shapes.inputs[1]);
        let mut c = Vec::with_capacity(it.batches * it.m * it.n);
        for batch in 0..it.batches {
            let a = &inputs[0][batch * it.m * it.k..];
            let b = &inputs[1][batch * it.k * it.n..];
            for row in 0..it.m {
                for column in 0..it.n {
                    let start = inputs.get(2).map_or(0.0, |bias| bias[column]);
                    let product = |k: usize| a[row * it.a[0] + k * it.a[1]] * b[k * it.b[0] + column * it.b[1]];
                    c.push(start + (0..it.k).map(product).sum::<f64>());
                }
            }
        }
        vec![c]
    }

    fn accumulates(&self) -> bool {
        self.accumulate
    }

    fn flops(&self, shapes: &Shapes<'_>) -> u64 {
        let it = self.geometry(shapes.inputs[0], shapes.inputs[1]);
        2 * (it.batches * it.m * it.n * it.k) as u64
    }
}
