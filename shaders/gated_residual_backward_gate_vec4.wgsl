// gated_residual_backward_gate with an invocation for each chunk and four columns.
//!import pack_vec4
//!import gated_residual_backward_gate
