// gated_residual_backward_gate with an invocation for each chunk and column.
//!import pack
//!import gated_residual_backward_gate
