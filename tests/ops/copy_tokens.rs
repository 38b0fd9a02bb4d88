//! Sequences joined along tokens and columns, and split.

use flowdppo_wgpu::graph::{Graph, Tensor};
use flowdppo_wgpu::ops::{JoinTokens, SplitTokens, TokenParts, join_tokens};

use crate::common::{Input, check, check_rows_are_independent, floats, run, words};

/// Copies: only the weighted sums of the check are rounded.
const NO_ROUNDING: f64 = 1e-14;

#[test]
fn copy_tokens_by_join_and_split() {
    // The third has the sizes of SD3.5's queries, keys and values, with fewer heads.
    for (batch, tokens, columns, width) in
        [(1, vec![1], 1, 1), (3, vec![5, 2], 1, 7), (2, vec![64, 333], 3, 24), (2, vec![3, 1, 4], 2, 5)]
    {
        let all = TokenParts::all(&tokens, columns);
        let inputs: Vec<Input> =
            tokens.iter().flat_map(|tokens| vec![Input::normal(&[batch, *tokens, width]); columns]).collect();
        check("join_tokens", &inputs, NO_ROUNDING, |graph, x| vec![graph.apply(JoinTokens(all.clone()), x)]);
        let joined = Input::normal(&[batch, tokens.iter().sum(), columns * width]);
        check("split_tokens", &[joined], NO_ROUNDING, |graph, x| graph.push(SplitTokens(all.clone()), &[x[0]]));
    }
}

#[test]
fn copy_tokens_with_absent_parts() {
    // The last block of SD3: no queries of the text, and only the image's result.
    let inputs = [[4, 5], [4, 5], [4, 5], [3, 5], [3, 5]].map(|[tokens, width]| Input::normal(&[2, tokens, width]));
    let join = |graph: &mut Graph, x: &[Tensor]| {
        let present = [Some(x[0]), Some(x[1]), Some(x[2])];
        join_tokens(graph, &[&present, &[None, Some(x[3]), Some(x[4])]])
    };
    check("join_tokens", &inputs, NO_ROUNDING, |graph, x| vec![join(graph, x)]);
    let first = TokenParts { tokens: vec![4, 3], columns: 1, present: vec![true, false] };
    check("split_tokens", &[Input::normal(&[2, 7, 5])], NO_ROUNDING, |graph, x| {
        graph.push(SplitTokens(first.clone()), &[x[0]])
    });
    let shapes = [[1, 1, 2], [1, 2, 2]];
    let found = run(&[(&shapes[0], &words(&[1.0, 2.0])), (&shapes[1], &words(&[3.0, 4.0, 5.0, 6.0]))], |graph, x| {
        vec![join_tokens(graph, &[&[Some(x[0]), None], &[None, Some(x[1])]])]
    });
    assert_eq!(floats(&found[0]), [1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 5.0, 6.0]);
}

#[test]
fn copy_tokens_of_a_sample_does_not_depend_on_its_batch() {
    let inputs = [Input::normal(&[11, 7, 5]), Input::normal(&[11, 3, 5])];
    check_rows_are_independent("join_tokens", 11, &inputs, |graph, x| {
        vec![join_tokens(graph, &[&[Some(x[0])], &[Some(x[1])]])]
    });
}
