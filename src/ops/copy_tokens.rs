//! Joining and splitting along tokens and columns at once: the queries, keys and values of two sequences that attend to
//! each other become the one tensor that attention takes.

use super::{independent, word};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// A tensor `[batch, sum of tokens, columns · width]` as a table of parts: one row per sequence, and `columns` parts
/// `[batch, tokens, width]` in each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenParts {
    /// Tokens of each sequence.
    pub tokens: Vec<usize>,
    /// Parts of a sequence, side by side.
    pub columns: usize,
    /// Which parts are present, sequence by sequence: the inputs of [`JoinTokens`], which fills the others with zeros,
    /// and the outputs of [`SplitTokens`].
    pub present: Vec<bool>,
}

/// Parts to one tensor.
#[derive(Clone, Debug)]
pub struct JoinTokens(pub TokenParts);

/// One tensor to parts.
#[derive(Clone, Debug)]
pub struct SplitTokens(pub TokenParts);

/// Joins sequences of the same width along tokens, and the parts of each along columns; `None` stands for zeros.
///
/// # Panics
/// If a sequence has no part at all, or the numbers of parts differ.
pub fn join_tokens(graph: &mut Graph, sequences: &[&[Option<Tensor>]]) -> Tensor {
    let tokens = sequences.iter().map(|parts| {
        let part = parts.iter().flatten().next().expect("a sequence has at least one part");
        graph.shape(*part)[1]
    });
    let (tokens, columns) = (tokens.collect(), sequences[0].len());
    assert!(sequences.iter().all(|parts| parts.len() == columns), "sequences have the same number of parts");
    let parts = || sequences.iter().copied().flatten();
    let present = parts().map(Option::is_some).collect();
    let inputs: Vec<Tensor> = parts().copied().flatten().collect();
    graph.apply(JoinTokens(TokenParts { tokens, columns, present }), &inputs)
}

shader_struct! {
    pub(super) struct CopyTokensParams {
        batches: u32,
        tokens: u32,
        columns: u32,
        from_tokens: u32,
        from_token: u32,
        from_stride: u32,
        from_column: u32,
        to_tokens: u32,
        to_token: u32,
        to_stride: u32,
        to_column: u32,
        is_present: u32,
    }
}

impl TokenParts {
    /// All parts of sequences with these numbers of tokens.
    pub fn all(tokens: &[usize], columns: usize) -> Self {
        Self { tokens: tokens.to_vec(), columns, present: vec![true; tokens.len() * columns] }
    }

    /// The present parts, by sequence and column.
    fn parts(&self) -> impl Iterator<Item = (usize, usize)> {
        let places = (0..self.present.len()).filter(|place| self.present[*place]);
        places.map(|place| (place / self.columns, place % self.columns))
    }

    fn joined_shape(&self, batch: usize, width: usize) -> [usize; 3] {
        [batch, self.tokens.iter().sum(), self.columns * width]
    }

    /// The dispatch that copies a part out of, or into, the joined tensor.
    fn copy(
        &self,
        (sequence, column): (usize, usize),
        [batch, width]: [usize; 2],
        [from, to]: [Binding; 2],
        joins: bool,
    ) -> Dispatch<Binding> {
        let tokens = self.tokens[sequence];
        let before: usize = self.tokens[..sequence].iter().sum();
        let whole = [self.tokens.iter().sum(), before, self.columns * width, column * width];
        let part = [tokens, 0, width, 0];
        let [source, target] = if joins { [part, whole] } else { [whole, part] };
        let ([from_tokens, from_token, from_stride, from_column], [to_tokens, to_token, to_stride, to_column]) =
            (source.map(word), target.map(word));
        let params = CopyTokensParams {
            batches: word(batch),
            tokens: word(tokens),
            columns: word(width),
            from_tokens,
            from_token,
            from_stride,
            from_column,
            to_tokens,
            to_token,
            to_stride,
            to_column,
            is_present: (from != Binding::Unused).into(),
        };
        independent(Kernel::new("copy_tokens"), &[from], &[to], &params, batch * tokens * width)
    }

    /// The index in the joined tensor of a part's row of one sample.
    fn start(&self, (sequence, column): (usize, usize), batch: usize, token: usize, width: usize) -> usize {
        let [_, all, stride] = self.joined_shape(1, width);
        let before: usize = self.tokens[..sequence].iter().sum();
        (batch * all + before + token) * stride + column * width
    }
}

impl Op for JoinTokens {
    fn name(&self) -> &'static str {
        "join_tokens"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let [batch, _, width] = *inputs[0] else { panic!("parts are [batch, tokens, width], not {:?}", inputs[0]) };
        assert_eq!(self.0.parts().count(), inputs.len(), "each part that is present needs a tensor");
        for ((sequence, _), shape) in self.0.parts().zip(inputs) {
            assert_eq!(*shape, [batch, self.0.tokens[sequence], width], "parts must fit their sequence");
        }
        vec![self.0.joined_shape(batch, width).to_vec()]
    }

    fn vjp(
        &self,
        graph: &mut Graph,
        inputs: &[Tensor],
        _: &[Tensor],
        gradients: &[Option<Tensor>],
        wanted: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        let Some(dy) = gradients[0] else { return vec![None; inputs.len()] };
        let is_wanted: Vec<bool> = wanted.iter().map(|want| *want != Wanted::No).collect();
        let mut of_inputs = is_wanted.iter();
        let present = self.0.present.iter().map(|present| *present && of_inputs.next() == Some(&true)).collect();
        let mut found = graph.push(SplitTokens(TokenParts { present, ..self.0.clone() }), &[dy]).into_iter();
        is_wanted.iter().map(|is_wanted| is_wanted.then(|| found.next()).flatten()).collect()
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let sizes = [shapes.inputs[0][0], shapes.inputs[0][2]];
        let mut inputs = (0..shapes.inputs.len()).map(Binding::Input);
        let source = |is_present: &bool| is_present.then(|| inputs.next()).flatten().unwrap_or(Binding::Unused);
        let sources: Vec<Binding> = self.0.present.iter().map(source).collect();
        let places = sources.into_iter().enumerate();
        let part = |(place, from)| {
            let part = (place / self.0.columns, place % self.0.columns);
            self.0.copy(part, sizes, [from, Binding::Output(0)], true)
        };
        places.map(part).collect()
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let width = shapes.inputs[0][2];
        let mut joined = vec![0.0; shapes.output_elements(0)];
        for (part, values) in self.0.parts().zip(inputs) {
            for (row, values) in values.chunks(width).enumerate() {
                let tokens = self.0.tokens[part.0];
                joined[self.0.start(part, row / tokens, row % tokens, width)..][..width].copy_from_slice(values);
            }
        }
        vec![joined]
    }
}

impl Op for SplitTokens {
    fn name(&self) -> &'static str {
        "split_tokens"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let [batch, _, stride] = *inputs[0] else { panic!("tokens are [batch, tokens, width], not {:?}", inputs[0]) };
        let width = stride / self.0.columns;
        assert_eq!(*inputs[0], self.0.joined_shape(batch, width), "parts must make up the tensor");
        self.0.parts().map(|(sequence, _)| vec![batch, self.0.tokens[sequence], width]).collect()
    }

    /// Parts that nothing depends on have a gradient of zero.
    fn vjp(
        &self,
        graph: &mut Graph,
        _: &[Tensor],
        _: &[Tensor],
        gradients: &[Option<Tensor>],
        _: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        let mut of_outputs = gradients.iter();
        let is_there = |present: &bool| *present && of_outputs.next().is_some_and(Option::is_some);
        let present = self.0.present.iter().map(is_there).collect();
        let found: Vec<Tensor> = gradients.iter().copied().flatten().collect();
        vec![Some(graph.apply(JoinTokens(TokenParts { present, ..self.0.clone() }), &found))]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let sizes = [shapes.outputs[0][0], shapes.outputs[0][2]];
        let part = |(index, part)| self.0.copy(part, sizes, [Binding::Input(0), Binding::Output(index)], false);
        self.0.parts().enumerate().map(part).collect()
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let [batch, width] = [shapes.outputs[0][0], shapes.outputs[0][2]];
        let of_part = |part: (usize, usize)| -> Vec<f64> {
            let tokens = self.0.tokens[part.0];
            let row = |row: usize| &inputs[0][self.0.start(part, row / tokens, row % tokens, width)..][..width];
            (0..batch * tokens).flat_map(row).copied().collect()
        };
        self.0.parts().map(of_part).collect()
    }
}
