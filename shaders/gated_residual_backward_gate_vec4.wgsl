// gated_residual_backward_gate with one invocation per chunk and four columns.
//!import pack_vec4
//!import gated_residual_backward_gate
