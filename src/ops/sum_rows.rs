//! Sums over rows: gradients of biases, positions and anything else that was broadcast.

use super::{independent, takes_vectors, word};
use crate::gpu::{Dispatch, Kernel, ShaderStruct, shader_struct};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// Rows that one invocation of the first pass sums.
const CHUNK: usize = 64;

/// Sums `x`, viewed as `[outer, rows, columns]`, over its rows to `[outer, columns]` in two passes: first within
/// chunks of rows, then over chunks, so that tall and narrow inputs still fill the device.
///
/// Outputs: the sum, and the partial sums (scratch).
#[derive(Clone, Copy, Debug)]
pub struct SumRows {
    /// Number of independent sums.
    pub outer: usize,
    /// Number of columns.
    pub columns: usize,
    /// Add to the output, which is a stored tensor.
    pub accumulate: bool,
}

/// Sums over the rows of something of the shape `[outer, rows, columns]`, in one pass if a chunk contains all rows,
/// else in two: over the rows of each chunk, by whichever kernel computes what is added up, and then over chunks.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowSums {
    pub(super) outer: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

shader_struct! {
    /// Of kernels that compute what they add up.
    pub(super) struct RowSumsParams {
        pub(super) outer: u32,
        pub(super) rows: u32,
        pub(super) columns: u32,
        pub(super) chunk: u32,
        pub(super) chunks: u32,
    }
}

shader_struct! {
    pub(super) struct SumRowsParams {
        outer: u32,
        rows: u32,
        columns: u32,
        chunk: u32,
        chunks: u32,
        accumulate: u32,
    }
}

impl RowSums {
    pub(super) fn chunks(&self) -> usize {
        self.rows.div_ceil(CHUNK)
    }

    /// Rows of a chunk; all of them if there is one chunk.
    pub(super) fn chunk(&self) -> usize {
        self.rows.min(CHUNK)
    }

    /// Shapes of the sums and of the partial sums, which are scratch, and used only if there are several chunks.
    pub(super) fn shapes(&self) -> [Vec<usize>; 2] {
        [vec![self.outer, self.columns], vec![self.outer, self.chunks(), self.columns]]
    }

    /// Where the first pass writes to.
    pub(super) fn first_target(&self, sums: Binding, partial: Binding) -> Binding {
        if self.chunks() == 1 { sums } else { partial }
    }

    /// The parameters of the first pass.
    pub(super) fn params(&self) -> RowSumsParams {
        let [outer, rows, columns] = [self.outer, self.rows, self.columns].map(word);
        RowSumsParams { outer, rows, columns, chunk: word(self.chunk()), chunks: word(self.chunks()) }
    }

    /// The pass over the rows of each chunk: one invocation per chunk and column with the first kernel or, where
    /// vectors are faster, per chunk and four columns with the second. Each column has the same bits in both.
    /// The parameters begin with [`RowSums::params`].
    pub(super) fn first_pass(
        &self,
        [plain, vec4]: [&'static str; 2],
        profile: &DeviceProfile,
        reads: &[Binding],
        writes: &[Binding],
        params: &impl ShaderStruct,
    ) -> Dispatch<Binding> {
        let (name, pack) = if takes_vectors(self.columns, profile) { (vec4, 4) } else { (plain, 1) };
        independent(Kernel::new(name), reads, writes, params, self.outer * self.chunks() * self.columns / pack)
    }

    /// The pass over chunks, if there are several.
    pub(super) fn second_pass(&self, partial: Binding, sums: Binding, accumulate: bool) -> Option<Dispatch<Binding>> {
        let chunks = Self { rows: self.chunks(), ..*self };
        (chunks.rows > 1).then(|| chunks.pass([partial, sums], chunks.rows, accumulate))
    }

    /// Sums chunks of `chunk` rows.
    fn pass(&self, [from, to]: [Binding; 2], chunk: usize, accumulate: bool) -> Dispatch<Binding> {
        let chunks = self.rows.div_ceil(chunk);
        let params = SumRowsParams {
            outer: word(self.outer),
            rows: word(self.rows),
            columns: word(self.columns),
            chunk: word(chunk),
            chunks: word(chunks),
            accumulate: accumulate.into(),
        };
        independent(Kernel::new("sum_rows"), &[from], &[to], &params, self.outer * chunks * self.columns)
    }

    /// The sums of what `value` returns for each element, and the partial sums.
    pub(super) fn reference(&self, value: impl Fn(usize) -> f64) -> [Vec<f64>; 2] {
        let [mut sums, mut partial] = self.shapes().map(|shape| vec![0.0; shape.iter().product()]);
        for index in 0..self.outer * self.rows * self.columns {
            let row = index / self.columns % self.rows;
            let (outer, column) = (index / self.columns / self.rows, index % self.columns);
            let value = value(index);
            sums[outer * self.columns + column] += value;
            partial[(outer * self.chunks() + row / CHUNK) * self.columns + column] += value;
        }
        [sums, partial]
    }
}

/// One pass that adds all `rows` of `x [rows, columns]` to `y [columns]`.
pub(super) fn add_up(x: Binding, y: Binding, rows: usize, columns: usize) -> Dispatch<Binding> {
    RowSums { outer: 1, rows, columns }.pass([x, y], rows, true)
}

impl SumRows {
    /// Records the sum of `x` as the requested gradient.
    pub fn of(self, graph: &mut Graph, x: Tensor, wanted: Wanted) -> Option<Tensor> {
        match wanted {
            Wanted::No => None,
            Wanted::Fresh => Some(graph.push(self, &[x])[0]),
            Wanted::Into(target) => {
                let [_, scratch] = self.sums(graph.elements(x)).shapes();
                let scratch = graph.scratch(&scratch);
                graph.push_into(Self { accumulate: true, ..self }, &[x], &[target, scratch]);
                None
            }
        }
    }

    fn sums(&self, elements: usize) -> RowSums {
        let Self { outer, columns, .. } = *self;
        assert_eq!(elements % (outer * columns), 0, "rows are complete");
        RowSums { outer, rows: elements / (outer * columns), columns }
    }
}

impl Op for SumRows {
    fn name(&self) -> &'static str {
        "sum_rows"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        self.sums(inputs[0].iter().product()).shapes().to_vec()
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let sums = self.sums(shapes.input_elements(0));
        let [input, sum, partial] = [Binding::Input(0), Binding::Output(0), Binding::Output(1)];
        let second = sums.second_pass(partial, sum, self.accumulate);
        let accumulate = self.accumulate && second.is_none();
        let first = sums.pass([input, sums.first_target(sum, partial)], sums.chunk(), accumulate);
        [first].into_iter().chain(second).collect()
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        self.sums(inputs[0].len()).reference(|index| inputs[0][index]).to_vec()
    }

    fn accumulates(&self) -> bool {
        self.accumulate
    }
}
